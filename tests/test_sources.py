"""Sources by name: right pixels and sizes, and one clear line for all that fails."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from datamodules import cache, handwritten, sources
from datamodules.sources import DataError, first_per_class, load, verify

import numpy as np
import pytest
from image_files import (
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    cold,  # noqa: F401
    entries,
    error_of,
    idx,
    overwrite,
    refuse,
    small_mnist,
)

# digits ---------------------------------------------------------------------------------------


def test_digits_are_the_embedded_ones_in_order():
    from sklearn.datasets import load_digits

    genuine = load_digits()
    train, test = load("digits"), load("digits", "test")
    assert (train.images.shape, test.images.shape) == ((1500, 1, 8, 8), (297, 1, 8, 8))
    assert (len(train), len(test)) == (1500, 297)
    assert train.classes == tuple("0123456789")
    assert (train.source, train.split, test.split) == ("digits", "train", "test")
    both = np.concatenate([train.images, test.images])[:, 0]
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), genuine.target)
    scale = [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]
    np.testing.assert_array_equal(both, np.array(scale)[genuine.images.astype(int)])


def test_digits_have_the_fingerprint_that_records_rely_on(tmp_path, monkeypatch):
    first = load("digits").fingerprint
    monkeypatch.setenv("ENTROFLOW_CACHE", str(tmp_path / "another"))
    assert load("digits").fingerprint == first
    assert first.startswith("d102043055bc")
    assert load("digits", "test").fingerprint.startswith("6e1bda94eaf1")


def test_arrays_are_mapped_and_read_only():
    data = load("digits")
    assert isinstance(data.images, np.memmap)
    assert (data.images.dtype, data.labels.dtype) == (np.uint8, np.int64)
    with pytest.raises(ValueError, match="read-only"):
        data.images[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        data.labels[0] = 0


def test_the_second_load_reads_the_cache_alone(tmp_path, monkeypatch):
    first, small = load("digits"), load("digits", size=4)
    for lock in (tmp_path / "cache").glob("*.lock"):
        lock.unlink()
    unread = replace(sources.SOURCES["digits"], read=refuse)
    monkeypatch.setitem(sources.SOURCES, "digits", unread)
    np.testing.assert_array_equal(load("digits").images, first.images)
    np.testing.assert_array_equal(load("digits", size=4).images, small.images)
    # a cache that is read-only serves as well
    assert not list((tmp_path / "cache").glob("*.lock"))


def test_unknown_sources_and_splits_are_told_what_there_is():
    message = error_of("imagenet")
    for name in (*sources.SOURCES, "image_folder:<path>", "hub:<name>"):
        assert name in message
    assert "hub:<name>" in error_of("hub:")
    assert "'val'; it has train, test" in error_of("digits", "val")
    assert "'val'; it has train, test" in error_of("mnist", "val")


# mnist ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [False, True])
def test_idx_files_are_read_raw_and_gzipped(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(handwritten, "MNIST_MD5", {})
    arrays = small_mnist(tmp_path / "files", pack=pack)
    for split, (images, labels) in handwritten.MNIST_FILES.items():
        data = load("mnist", split, root=tmp_path / "files")
        np.testing.assert_array_equal(data.images, arrays[images][:, None])
        np.testing.assert_array_equal(data.labels, arrays[labels])
        assert data.fingerprint == cache.fingerprint(arrays[images][:, None], arrays[labels])


def test_the_first_folder_that_has_all_files_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("ENTROFLOW_DATA", str(tmp_path / "data"))
    root, data = tmp_path / "root", tmp_path / "data"
    folders = [root, data / "mnist", data, tmp_path / "cache" / "mnist"]
    pictures = [small_mnist(folder, seed)[TRAIN_IMAGES] for seed, folder in enumerate(folders)]
    for folder, expected in zip(folders, pictures, strict=True):
        np.testing.assert_array_equal(load("mnist", root=root).images[:, 0], expected)
        (folder / TRAIN_LABELS).unlink()
    assert "no folder has" in error_of("mnist", root=root)


def test_missing_files_say_what_where_and_how(tmp_path, monkeypatch):
    message = error_of("mnist", "test")
    assert "ENTROFLOW_DATA is not set" in message
    monkeypatch.setenv("ENTROFLOW_DATA", str(tmp_path / "data"))
    message = error_of("mnist", "test", root=tmp_path / "mine")
    for part in (TEST_IMAGES, TEST_LABELS, "`make data SOURCE=mnist`"):
        assert part in message
    for folder in ("mine", "data/mnist", "data", "cache/mnist"):
        assert f"{tmp_path / folder}" in message
    assert "not set" not in message
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (overwrite(TRAIN_IMAGES, lambda b: b[:-1]), "holds 399 bytes"),
        (overwrite(TRAIN_IMAGES, lambda b: b + b"x"), "holds 401 bytes"),
        (overwrite(TRAIN_IMAGES, lambda b: b[:9]), "is truncated"),
        (overwrite(TRAIN_IMAGES, lambda b: b""), "begins with"),
        (overwrite(TRAIN_IMAGES, lambda b: idx(np.zeros(20, np.uint8))), "begins with 00000801"),
        (overwrite(TRAIN_LABELS, lambda b: b"\0\0\x0d\1" + b[4:]), "begins with 00000d01"),
        (overwrite(TRAIN_LABELS, lambda b: idx(np.zeros(19, np.uint8))), "20 images"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, damage, said):
    small_mnist(tmp_path / "files")
    path = damage(tmp_path / "files")
    message = error_of("mnist", root=tmp_path / "files")
    assert str(path) in message
    assert said in message


def test_labels_beyond_the_classes_are_refused(tmp_path):
    small_mnist(tmp_path / "files")
    overwrite(TRAIN_LABELS, lambda b: b[:-1] + b"\x0a")(tmp_path / "files")
    assert "labels 0..10 do not fit 10 classes" in error_of("mnist", root=tmp_path / "files")


@pytest.mark.parametrize(
    "cut",
    [
        lambda b: b[:-30],
        lambda b: b[:5],
        lambda b: b[:-30] + bytes(30),
        lambda b: b[:10] + b"\xff" * 99,
    ],
)
def test_a_truncated_gz_is_one_line(tmp_path, cut):
    small_mnist(tmp_path / "files", pack=True)
    path = overwrite(f"{TRAIN_IMAGES}.gz", cut)(tmp_path / "files")
    assert f"{path} is truncated or damaged" in error_of("mnist", root=tmp_path / "files")


def test_a_gz_that_is_not_the_published_one_is_refused(tmp_path):
    small_mnist(tmp_path / "files", pack=True)
    message = error_of("mnist", root=tmp_path / "files")
    assert f"{TRAIN_IMAGES}.gz is not the published file" in message
    assert "f68b3c2dcbeaaa9fbdd348bbdeb94873" in message


def test_a_changed_file_makes_a_new_entry(tmp_path):
    small_mnist(tmp_path / "files")
    first = load("mnist", root=tmp_path / "files")
    path = tmp_path / "files" / TRAIN_IMAGES
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + bytes([255 - int(first.images[-1, 0, -1, -1])]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = load("mnist", root=tmp_path / "files")
    assert second.images[-1, 0, -1, -1] == 255 - int(first.images[-1, 0, -1, -1])
    assert second.fingerprint != first.fingerprint


def test_a_set_of_another_size_is_not_mnist(tmp_path, monkeypatch):
    small_mnist(tmp_path / "files")
    monkeypatch.setattr(handwritten, "MNIST_COUNTS", {"train": 60_000, "test": 10_000})
    assert "mnist train has 20 images, not 60,000" in error_of("mnist", root=tmp_path / "files")


# sizes ----------------------------------------------------------------------------------------


def test_a_smaller_size_is_the_rounded_mean_of_boxes_and_has_an_entry_of_its_own(tmp_path):
    whole, small = load("digits"), load("digits", size=4)
    blocks = whole.images.reshape(1500, 1, 4, 2, 4, 2).astype(float).mean((3, 5))
    assert (small.images.dtype, small.images.shape) == (np.uint8, (1500, 1, 4, 4))
    assert np.abs(small.images - blocks).max() <= 0.5
    np.testing.assert_array_equal(small.labels, whole.labels)
    assert small.classes == whole.classes
    assert small.verified == (f"box averages of {whole.fingerprint[:12]}",)
    assert isinstance(small.images, np.memmap)
    folders = entries(tmp_path / "cache")
    assert len(folders) == 2
    shutil.rmtree(folders[0 if "digits-train" in folders[0].name else 1])
    assert load("digits", size=4).fingerprint == small.fingerprint  # without the whole ones
    assert len(entries(tmp_path / "cache")) == 1


def test_a_size_is_averaged_alike_in_pieces_and_twice(tmp_path, monkeypatch):
    first = load("digits", size=2).fingerprint
    monkeypatch.setenv("ENTROFLOW_CACHE", str(tmp_path / "another"))
    monkeypatch.setattr(sources, "STEP", 7)
    assert load("digits", size=2).fingerprint == first
    assert load("digits", size=1).fingerprint != first


def test_images_of_28_px_are_padded_to_32_first(tmp_path):
    small_mnist(tmp_path / "files")
    lit = np.zeros((20, 28, 28), np.uint8)
    lit[:, 0, 0], lit[:, 27, 26:] = 200, 100
    (tmp_path / "files" / TRAIN_IMAGES).write_bytes(idx(lit))
    options = {"root": tmp_path / "files"}
    padded = load("mnist", size=32, **options).images
    assert (padded.shape, int(padded[0].sum())) == ((20, 1, 32, 32), 400)
    assert (padded[0, 0, 2, 2], padded[0, 0, 29, 29]) == (200, 100)
    half = load("mnist", size=16, **options).images
    assert (half[0, 0, 1, 1], half[0, 0, 14, 14], int(half[0].sum())) == (50, 50, 100)
    np.testing.assert_array_equal(load("mnist", size=28, **options).images[:, 0], lit)


def test_a_size_that_does_not_divide_is_told_those_that_do(tmp_path):
    assert "digits train: images of 8 x 8 have no box average of 3 x 3" in error_of(
        "digits", size=3
    )
    assert entries(tmp_path / "cache")[0].name.startswith("digits-train-")
    small_mnist(tmp_path / "files")
    assert "images of 5 x 4 are not square" in error_of("mnist", root=tmp_path / "files", size=2)


# verify ---------------------------------------------------------------------------------------


def test_verify_describes_every_split_and_sees_a_flipped_bit(tmp_path):
    small_mnist(tmp_path / "files")
    train = load("mnist", root=tmp_path / "files")
    lines = verify("mnist", tmp_path / "files")
    assert lines[0] == (
        f"mnist train: 20 images 1x5x4, 10 classes, fingerprint {train.fingerprint[:12]}; "
        "as published: 20 images"
    )
    assert lines[1].startswith("mnist test: 10 images 1x5x4, 10 classes, fingerprint ")
    path = Path(str(train.images.filename))
    path.write_bytes(path.read_bytes()[:-1] + bytes([255 - int(train.images[-1, 0, -1, -1])]))
    with pytest.raises(DataError, match="damaged; delete it"):
        verify("mnist", tmp_path / "files")


# first_per_class ------------------------------------------------------------------------------


def test_first_per_class_by_value():
    labels = np.array([2, 0, 2, 2, 1, 0, 0, 2])
    for n, expected in ((0, []), (1, [0, 1, 4]), (2, [0, 1, 2, 4, 5]), (9, range(8))):
        chosen = first_per_class(labels, n)
        assert chosen.dtype == np.int64
        np.testing.assert_array_equal(chosen, list(expected))
    assert len(first_per_class(np.array([], np.int64), 3)) == 0
    for wrong in ((labels, -1), (labels[None], 1)):
        with pytest.raises(ValueError, match="n >= 0"):
            first_per_class(*wrong)
