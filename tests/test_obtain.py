"""`make data`: copied or fetched once, whole or absent, and told what was verified."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

from datamodules import copies, sources
from datamodules.places import Hub
from datamodules.sources import DataError, load, obtain

import numpy as np
import pytest
from image_files import (
    TEST_IMAGES,
    TRAIN_IMAGES,
    cold,  # noqa: F401
    encode,
    entries,
    error_of,
    hub_table,
    noise,
    pack,
    picture,
    refuse,
    small_mnist,
)


def failure(source, **options) -> str:
    with pytest.raises(DataError) as caught:
        obtain(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def given(tmp_path, monkeypatch):
    """A small MNIST under ENTROFLOW_DATA; its folder and the one it is copied to."""
    monkeypatch.setenv("ENTROFLOW_DATA", str(tmp_path / "data"))
    small_mnist(tmp_path / "data" / "mnist")
    return tmp_path / "data" / "mnist", tmp_path / "cache" / "mnist"


def test_files_are_copied_from_the_data_and_verified(given, monkeypatch):
    theirs, ours = given
    lines = obtain("mnist")
    assert len(lines) == 6
    assert lines[0] == (
        f"mnist: copied {TRAIN_IMAGES} (416 bytes) from {theirs} to {ours}; "
        "both compared by SHA-256"
    )
    assert lines[4].startswith("mnist train: 20 images 1x5x4, 10 classes, fingerprint ")
    assert lines[5].endswith("; as published: 10 images")
    assert sorted(path.name for path in ours.iterdir()) == sorted(os.listdir(theirs))
    fingerprint = load("mnist").fingerprint
    monkeypatch.setattr(copies, "_copy", refuse)
    assert obtain("mnist")[0] == f"mnist: found {TRAIN_IMAGES} (416 bytes) in {ours}"
    shutil.rmtree(theirs)
    assert obtain("mnist")[0] == f"mnist: found {TRAIN_IMAGES} (416 bytes) in {ours}"
    assert load("mnist").fingerprint == fingerprint
    assert len(entries(ours.parent)) == 2  # a copy is no new data


def test_what_lies_in_root_stays_there(given, tmp_path):
    shutil.move(given[0], tmp_path / "mine")
    lines = obtain("mnist", root=tmp_path / "mine")
    assert lines[0] == f"mnist: found {TRAIN_IMAGES} (416 bytes) in {tmp_path / 'mine'}"
    assert not given[1].exists()


def test_a_copy_that_was_broken_off_goes_on(given, monkeypatch):
    theirs, ours = given
    ours.mkdir(parents=True)
    whole = (theirs / TEST_IMAGES).read_bytes()
    monkeypatch.setattr(copies, "BLOCK", 64)
    (ours / f"{TEST_IMAGES}.partial").write_bytes(whole[:100])
    (ours / f"{TRAIN_IMAGES}.partial").write_bytes(b"longer than the file" * 100)
    obtain("mnist")
    assert (ours / TEST_IMAGES).read_bytes() == whole
    assert sorted(path.name for path in ours.iterdir()) == sorted(os.listdir(theirs))


def test_a_copy_that_differs_is_thrown_away_and_made_again(given):
    theirs, ours = given
    ours.mkdir(parents=True)
    (ours / f"{TEST_IMAGES}.partial").write_bytes(b"of another file")
    assert f"{theirs / TEST_IMAGES} and its copy differ" in failure("mnist")
    assert not (ours / TEST_IMAGES).exists()
    obtain("mnist")
    (theirs / TEST_IMAGES).write_bytes((theirs / TEST_IMAGES).read_bytes()[:-1] + b"!")
    assert obtain("mnist")[2].startswith(f"mnist: copied {TEST_IMAGES}")
    assert (ours / TEST_IMAGES).read_bytes()[-1:] == b"!"


def test_a_disk_without_room_is_told_before_a_byte_is_written(given, monkeypatch):
    few = shutil.disk_usage("/")._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: few)
    message = failure("mnist")
    assert "has 416 bytes, but" in message
    assert "room for 100; set ENTROFLOW_CACHE" in message
    assert not any(given[1].iterdir())


def test_a_folder_is_copied_with_all_below_it(tmp_path, monkeypatch):
    from datamodules import photographs

    monkeypatch.setenv("ENTROFLOW_DATA", str(tmp_path / "data"))
    monkeypatch.setitem(photographs.COUNTS, "imagenet", {"train": 2, "val": 2})
    monkeypatch.setattr(photographs, "IMAGENET_CLASSES", 2)
    files = {
        f"{split}/n0000000{k}/{k}.JPEG": encode(noise(k, (300, 280)))
        for split in ("train", "val")
        for k in (1, 2)
    }
    theirs, ours = tmp_path / "data" / "imagenet", tmp_path / "cache" / "imagenet"
    pack(theirs, files)
    half = ours / "val.partial" / "n00000001" / "1.JPEG"
    half.parent.mkdir(parents=True)
    half.write_bytes(files["val/n00000001/1.JPEG"][:50])
    lines = obtain("imagenet256")
    assert lines[1].startswith("imagenet256: copied val (")
    assert {str(p.relative_to(ours)): p.read_bytes() for p in ours.rglob("*.JPEG")} == files
    assert sorted(os.listdir(ours)) == ["train", "val"]
    fingerprint = load("imagenet256").fingerprint
    shutil.rmtree(theirs)
    assert obtain("imagenet256")[0].startswith("imagenet256: found train (")
    assert load("imagenet256").fingerprint == fingerprint


# the Hub --------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """A Hub that has a table of three pictures and one, under other names of its splits."""
    import datasets

    genuine, asked = datasets.load_dataset, []

    def load_dataset(path, **options):
        if path != "some/cifar":
            return genuine(path, **options)
        asked.append(options["split"])
        count = {"training": 3, "testing": 1}[options["split"]]
        return hub_table([picture("RGB", (5, 4), 10 * k) for k in range(count)])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    copy = Hub("some/cifar", {"train": ("training", 3), "test": ("testing", 1)})
    known = replace(sources.SOURCES["cifar10"], hub=copy)
    monkeypatch.setitem(sources.SOURCES, "cifar10", known)
    return asked


def test_the_hubs_copy_is_fetched_once_and_opens_offline(tmp_path, hub, monkeypatch):
    import datasets

    assert "get it with `make data SOURCE=cifar10`" in error_of("cifar10")
    assert not hub  # loading asks nobody
    lines = obtain("cifar10")
    place = tmp_path / "cache" / "cifar10" / "hub"
    assert lines[0] == (
        f"cifar10 train: fetched 3 images from the Hub's some/cifar (training) to {place}"
    )
    assert lines[2].startswith("cifar10 train: 3 images 3x4x5, 2 classes, fingerprint ")
    assert lines[2].endswith("; as published: 3 images")
    assert hub == ["training", "testing"]
    shutil.rmtree(tmp_path / "cache" / entries(tmp_path / "cache")[0].name)
    np.testing.assert_array_equal(load("cifar10").images[:, 0, 0, 0], [0, 10, 20])
    assert obtain("cifar10")[0] == f"cifar10: found the copy of the Hub's some/cifar in {place}"
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    np.testing.assert_array_equal(load("cifar10").labels, [1, 0, 1])
    assert hub == ["training", "testing"]


def test_a_copy_from_the_hub_is_whole_or_absent_and_counted(tmp_path, hub, monkeypatch):
    known = sources.SOURCES["cifar10"]
    for splits, said in (
        ({"train": ("training", 3), "test": ("nothing", 1)}, "cannot be fetched from the Hub"),
        ({"train": ("training", 50_000)}, "has 3 images in training, not 50,000"),
    ):
        wrong = replace(known, hub=Hub("some/cifar", splits), splits=lambda root: ("train",))
        monkeypatch.setitem(sources.SOURCES, "cifar10", wrong)
        assert said in failure("cifar10")
        assert entries(tmp_path / "cache") == []
        assert not any((tmp_path / "cache" / "cifar10").iterdir())


def test_no_network_is_one_line_with_both_mends(tmp_path, monkeypatch):
    import datasets

    def away(*args, **options):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", away)
    message = failure("mnist")
    assert "ylecun/mnist cannot be fetched from the Hub (no network)" in message
    assert "`make data SOURCE=mnist` again" in message
    assert "$ENTROFLOW_DATA/mnist" in message
    assert not any((tmp_path / "cache" / "mnist").iterdir())


def test_what_no_hub_has_says_how_to_come_by_it():
    assert "then run `make data SOURCE=celeba`" in failure("celeba")
    assert "ENTROFLOW_DATA is not set" in failure("cifar10_lossless")


def test_sources_without_files_are_only_verified(tmp_path):
    assert [line.split(":")[0] for line in obtain("digits")] == ["digits train", "digits test"]
    source = f"image_folder:{pack(tmp_path / 'set', {'a/1.png': encode(noise(0, (4, 4)))})}"
    assert len(obtain(source)) == 1
    assert not (tmp_path / "cache" / "image_folder").exists()
    with pytest.raises(DataError, match="unknown source"):
        obtain("nothing")
