"""Folders and archives of image files by class, and what the papers' large sets make of them."""

from __future__ import annotations

from datamodules import image_folders, pixels
from datamodules.sources import load, verify

import numpy as np
import pytest
from image_files import (
    cold,  # noqa: F401
    encode,
    entries,
    error_of,
    noise,
    pack,
    picture,
)

KINDS = ("folder", "set.tar", "set.tar.gz", "set.tar.xz", "set.zip")


def pngs(names, mode="RGB", size=(6, 4)) -> dict[str, bytes]:
    return {name: encode(noise(seed, size, mode)) for seed, name in enumerate(names)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_classes_by_name_and_one_fingerprint(tmp_path, kind):
    names = ["set/dog/2.png", "set/cat/b.PNG", "set/dog/1.png", "set/cat/a.png"]
    files = pngs(names) | {"set/README.txt": b"no image", "set/.cat/x.png": b"hidden"}
    data = load(f"image_folder:{pack(tmp_path / kind, files)}")
    assert data.classes == ("cat", "dog")
    np.testing.assert_array_equal(data.labels, [0, 0, 1, 1])
    for image, seed in zip(data.images, (3, 1, 2, 0), strict=True):
        np.testing.assert_array_equal(image, noise(seed, (6, 4)).transpose(2, 0, 1))
    plain = load("image_folder", root=pack(tmp_path / "plain", pngs(names)))
    assert plain.fingerprint == data.fingerprint


def test_the_path_counts_from_root_then_here_then_the_data(tmp_path, monkeypatch):
    monkeypatch.setenv("ENTROFLOW_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(pack(tmp_path / "here", {"note": b""}))
    for seed, place in enumerate(("data", "here", "root")):
        pack(tmp_path / place, {"photos/a/1.png": encode(noise(seed, (4, 4)))})
        root = tmp_path / "root" if place == "root" else None
        images = load("image_folder:photos", root=root).images
        np.testing.assert_array_equal(images[0], noise(seed, (4, 4)).transpose(2, 0, 1))
    message = error_of("image_folder:nothing")
    assert f"looked for nothing, {tmp_path / 'data' / 'nothing'}" in message
    assert "image_folder:<folder or archive>" in message
    assert "image_folder:<folder or archive>" in error_of("image_folder")


def test_the_same_images_elsewhere_are_the_same_entry(tmp_path):
    for place in ("one", "two"):
        load(f"image_folder:{pack(tmp_path / place, pngs(['a/1.png']))}")
    load(f"image_folder@2:{tmp_path / 'two'}")
    names = [entry.name.rsplit("-", 1)[0] for entry in entries(tmp_path / "cache")]
    assert names == ["image_folder-train", "image_folder-train"]


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train/a/1", "val/a/2", "val/b/3"], {"train": [0], "val": [0, 1]}),
        (["top/test/b/1", "top/train/a/2"], {"train": [0], "test": [1]}),
        (["train/a/1", "train/b/2"], {"train": [0, 1]}),
        (["x/test/a/1", "x/test/b/2"], {"test": [0, 1]}),
        (["a/1", "a/2"], {"train": [0, 0]}),
        (["val/a/1"], {"val": [0]}),
        (["x/y/a/1", "x/y/b/2"], {"train": [0, 1]}),
        (["night/a/1", "day/b/2"], {"day": [1], "night": [0]}),
    ],
)
def test_splits_share_one_list_of_classes(tmp_path, names, splits):
    path = pack(tmp_path / "set.tar.gz", pngs([f"{name}.png" for name in names]))
    source = f"image_folder:{path}"
    assert [line.split(":")[-2].rsplit(" ", 1)[1] for line in verify(source)] == list(splits)
    for split, labels in splits.items():
        np.testing.assert_array_equal(load(source, split).labels, labels)
    assert f"has no split 'dusk'; it has {', '.join(splits)}" in error_of(source, "dusk")


@pytest.mark.parametrize(
    "names", [["1"], ["a/1", "2"], ["a/b/c/1", "d/e/f/2"], ["a/1", "train/a/1"]]
)
def test_another_layout_is_refused_with_an_example(tmp_path, names):
    path = pack(tmp_path / "set.zip", pngs([f"{name}.png" for name in names]))
    message = error_of(f"image_folder:{path}")
    assert "is neither <class>/<file> nor <split>/<class>/<file>: it has '" in message


def test_no_images_are_refused(tmp_path):
    path = pack(tmp_path / "set", {"a/1.txt": b""})
    assert f"{path} has no images" in error_of(f"image_folder:{path}")


def test_grey_stays_grey_unless_a_colour_comes(tmp_path):
    grey = pngs(["a/1.png", "a/2.png"], "L")
    colour = pngs(["b/3.png"])
    data = load(f"image_folder:{pack(tmp_path / 'grey.tar', grey)}")
    assert data.images.shape == (2, 1, 4, 6)
    np.testing.assert_array_equal(data.images[1, 0], noise(1, (6, 4), "L"))
    mixed = load(f"image_folder:{pack(tmp_path / 'mixed.tar', grey | colour)}").images
    assert mixed.shape == (3, 3, 4, 6)
    for channel in range(3):
        np.testing.assert_array_equal(mixed[:2, channel], data.images[:, 0])
    first = load(f"image_folder:{pack(tmp_path / 'first.tar.gz', {**colour, **grey})}").images
    np.testing.assert_array_equal(first, mixed)


def test_rows_are_put_in_order_in_pieces(tmp_path, monkeypatch):
    names = [f"{i % 3}/{i:02}.png" for i in np.random.default_rng(0).permutation(20)]
    path = pack(tmp_path / "set.tar.gz", pngs(names))
    whole = np.array(load(f"image_folder:{path}").images)
    order = sorted(range(20), key=names.__getitem__)
    expected = np.stack([noise(seed, (6, 4)).transpose(2, 0, 1) for seed in order])
    np.testing.assert_array_equal(whole, expected)
    monkeypatch.setattr(pixels, "CHUNK", 200)
    monkeypatch.setenv("ENTROFLOW_CACHE", str(tmp_path / "another"))
    np.testing.assert_array_equal(load(f"image_folder:{path}").images, expected)


def test_images_that_differ_in_size_are_refused_with_the_mend(tmp_path):
    files = pngs(["a/1.png"], size=(6, 4)) | pngs(["a/2.png"], size=(4, 6))
    path = pack(tmp_path / "set", files)
    message = error_of(f"image_folder:{path}")
    assert "image 1 is 6x4 and those before it 4x6; all must have one size" in message
    assert "image_folder@<size>:<path>" in message
    assert load(f"image_folder@2:{path}").images.shape == (2, 3, 2, 2)
    assert list((tmp_path / "cache").glob("*.partial")) == []


def test_a_size_in_the_name_is_adms_centre_crop(tmp_path):
    from datamodules.resizing import adm_crop

    from PIL import Image

    photo = noise(0, (50, 33))
    path = pack(tmp_path / "set", {"a/1.png": encode(photo), "a/2.png": picture("L", (9, 8), 7)})
    data = load("image_folder@8", root=path)
    expected = np.asarray(adm_crop(Image.fromarray(photo), 8)).transpose(2, 0, 1)
    np.testing.assert_array_equal(data.images[0], expected)
    np.testing.assert_array_equal(data.images[1], np.full((3, 8, 8), 7))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (encode(noise(0, (6, 4)))[:60], "cannot be decoded"),
        (b"no picture", "cannot be decoded"),
        (b"", "cannot be decoded"),
        (picture("I;16", (6, 4), 1000), "not 8 bits a channel"),
    ],
)
def test_an_image_that_cannot_be_used_is_named(tmp_path, content, said):
    path = pack(tmp_path / "set.tar.gz", {"a/1.png": content} | pngs(["a/2.png"]))
    message = error_of(f"image_folder:{path}")
    assert f"{path}: a/1.png" in message
    assert said in message


def test_a_changed_image_makes_a_new_entry(tmp_path, monkeypatch):
    for whole in (64 << 20, 100):  # by content, and by size and time
        monkeypatch.setattr("datamodules.cache.WHOLE", whole)
        path = pack(tmp_path / str(whole), pngs(["a/1.png", "a/2.png"]))
        first = load(f"image_folder:{path}").fingerprint
        (path / "a" / "2.png").write_bytes(encode(noise(9, (6, 4))))
        assert load(f"image_folder:{path}").fingerprint != first


def test_progress_is_told_while_it_lasts(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(pixels, "EVERY", 0.0)
    load(f"image_folder:{pack(tmp_path / 'set', pngs(['a/1.png', 'b/2.png']))}")
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].endswith("set train: 1 images decoded")
    assert lines[1].endswith("set train: 2 images decoded")


def test_the_sample_names_its_classes_by_their_files(tmp_path, monkeypatch):
    names = ["n3/n3_crane.JPEG", "n1/n1_great_white_shark.JPEG", "n2/n2_crane.JPEG"]
    top = image_folders.SAMPLE[1]
    files = pngs([f"{top}/{name}" for name in names])
    pack(tmp_path / image_folders.SAMPLE[0], files)
    assert "is not the published file: sha256" in error_of("imagenet_sample", root=tmp_path)
    monkeypatch.setattr(image_folders, "SAMPLE_SHA256", {})
    assert "has 3 images, not 1,000" in error_of("imagenet_sample", root=tmp_path)
    monkeypatch.setattr(image_folders, "SAMPLE_COUNTS", (3, 1))
    data = load("imagenet_sample", root=tmp_path)
    assert data.classes == ("great white shark", "crane (n2)", "crane (n3)")
    np.testing.assert_array_equal(data.images[0], noise(1, (6, 4)).transpose(2, 0, 1))
    assert "it has train" in error_of("imagenet_sample", "val", root=tmp_path)
    (tmp_path / image_folders.SAMPLE[0]).unlink()
    pack(tmp_path, files)
    assert load("imagenet_sample", root=tmp_path).fingerprint == data.fingerprint
