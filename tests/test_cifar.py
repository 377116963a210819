"""CIFAR-10's three forms on small sets made here; `test_real_data` reads the true ones."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil

from datamodules import cifar
from datamodules.sources import load

import numpy as np
import pytest
from image_files import cold, encode, error_of, noise, pack  # noqa: F401

FOLDER = "cifar-10-batches-py"
FILES = (*cifar.BATCHES["train"], *cifar.BATCHES["test"], "batches.meta")
EACH = 4  # images in each batch


def batches(seed: int = 0) -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """The files of a small set in the official layout; all images and labels in their order."""
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (6 * EACH, 3072), np.uint8)
    labels = rng.permutation(np.arange(6 * EACH) % 10)
    files = {}
    for k, name in enumerate(FILES[:-1]):
        rows = slice(k * EACH, (k + 1) * EACH)
        batch = {"batch_label": name, "labels": labels[rows].tolist(), "data": data[rows]}
        files[name] = pickle.dumps(batch, 2)
    files["batches.meta"] = pickle.dumps({"label_names": list(cifar.CLASSES)}, 2)
    return files, data.reshape(-1, 3, 32, 32), labels


@pytest.fixture
def small(monkeypatch):
    """Small official files, and tables that state their counts and checksums."""
    files, images, labels = batches()
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
    counts = {"train": (5 * EACH, None), "test": (EACH, None)}
    for source in ("cifar10", "cifar10_lossless"):
        monkeypatch.setitem(cifar.PUBLISHED, source, dict(md5))
        monkeypatch.setitem(cifar.COUNTS, source, counts)
    return files, images, labels


def packed(path, files, order=FILES):
    return pack(path, {f"{FOLDER}/{name}": files[name] for name in order if name in files})


@pytest.mark.parametrize("order", [FILES, FILES[::-1], FILES[1::2] + FILES[::2]])
def test_the_official_archive_is_read_in_the_order_of_its_batches(tmp_path, small, order):
    files, images, labels = small
    packed(tmp_path / "cifar-10-python.tar.gz", files, order)
    train, test = load("cifar10", root=tmp_path), load("cifar10", "test", root=tmp_path)
    np.testing.assert_array_equal(train.images, images[: 5 * EACH])
    np.testing.assert_array_equal(train.labels, labels[: 5 * EACH])
    np.testing.assert_array_equal(test.images, images[5 * EACH :])
    np.testing.assert_array_equal(test.labels, labels[5 * EACH :])
    assert train.classes[3] == "cat"
    assert train.verified[-1] == f"{5 * EACH} images"
    assert "md5 of data_batch_5" in train.verified


def test_archive_and_folder_give_one_fingerprint(tmp_path, small, monkeypatch):
    files, *_ = small
    packed(tmp_path / "a" / "cifar-10-python.tar.gz", files)
    packed(tmp_path / "b", files)
    prints = {load("cifar10", root=tmp_path / place).fingerprint for place in "ab"}
    prints.add(load("cifar10", root=tmp_path / "b" / FOLDER).fingerprint)
    prints.add(load("cifar10", root=tmp_path / "a" / "cifar-10-python.tar.gz").fingerprint)
    monkeypatch.setenv("ENTROFLOW_CACHE", str(tmp_path / "another"))
    prints.add(load("cifar10", root=tmp_path / "b").fingerprint)
    assert len(prints) == 1


def test_the_published_checksums_are_the_official_ones():
    # as torchvision, which has them from the data set's page
    from torchvision.datasets import CIFAR10

    table = cifar.PUBLISHED["cifar10"]
    assert table[CIFAR10.filename] == CIFAR10.tgz_md5
    for name, md5 in (*CIFAR10.train_list, *CIFAR10.test_list):
        assert table[name] == md5
    assert table[CIFAR10.meta["filename"]] == CIFAR10.meta["md5"]
    assert cifar.COUNTS["cifar10"] == {"train": (50_000, 5_000), "test": (10_000, 1_000)}


@pytest.mark.parametrize("source", ["cifar10", "cifar10_lossless"])
def test_without_the_tables_of_a_test_a_small_set_is_refused(tmp_path, source):
    files, *_ = batches()
    packed(tmp_path / "folder", files)
    message = error_of(source, root=tmp_path / "folder")
    assert "is not the published file: " in message
    name = cifar.ARCHIVES[source][0]
    message = error_of(source, root=packed(tmp_path / name, files))
    assert f"{name} is not the published file: " in message


def test_a_changed_batch_is_refused(tmp_path, small):
    files, *_ = small
    packed(tmp_path, files | {"data_batch_2": batches(1)[0]["data_batch_2"]})
    assert "data_batch_2 is not the published file: md5 " in error_of("cifar10", root=tmp_path)
    load("cifar10", "test", root=tmp_path)  # which has no part in it


def test_counts_and_classes_are_checked(tmp_path, small, monkeypatch):
    files, *_ = small
    monkeypatch.setitem(cifar.PUBLISHED, "cifar10", {})
    packed(tmp_path, {name: data for name, data in files.items() if name != "data_batch_4"})
    assert "has no data_batch_4" in error_of("cifar10", root=tmp_path)
    packed(tmp_path, files)
    monkeypatch.setitem(cifar.COUNTS, "cifar10", {"train": (50_000, 5_000)})
    assert "cifar10 train has 20 images, not 50,000" in error_of("cifar10", root=tmp_path)
    monkeypatch.setitem(cifar.COUNTS, "cifar10", {"train": (20, 2)})
    assert "images a class in 10 classes, not 2 in 10" in error_of("cifar10", root=tmp_path)
    packed(tmp_path, {"batches.meta": pickle.dumps({"label_names": ["cat"]}, 2)})
    assert "the classes are ['cat'], not CIFAR-10's" in error_of("cifar10", root=tmp_path)


class Evil:
    def __reduce__(self):
        return os.system, ("touch run",)


def test_a_batch_whose_pickle_would_run_code_is_refused(tmp_path, small, monkeypatch):
    files, *_ = small
    files["data_batch_3"] = pickle.dumps({"data": Evil(), "labels": [1]}, 2)
    monkeypatch.chdir(tmp_path)
    packed(tmp_path / "cifar-10-python.tar.gz", files)
    assert "data_batch_3 is not the published file" in error_of("cifar10", root=tmp_path)
    monkeypatch.setitem(cifar.PUBLISHED, "cifar10", {})
    message = error_of("cifar10", root=tmp_path)
    assert f"cifar-10-python.tar.gz: {FOLDER}/data_batch_3 is refused" in message
    assert "wants posix.system" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.xz"])
def test_the_lossless_subset_is_found_by_its_own_name(tmp_path, small, suffix):
    files, images, _ = small
    packed(tmp_path / f"cifar-10-python-lossless-subset{suffix}", files)
    np.testing.assert_array_equal(
        load("cifar10_lossless", "test", root=tmp_path).images, images[5 * EACH :]
    )
    assert "no folder has cifar-10-python.tar.gz" in error_of("cifar10", root=tmp_path)


# cifar10_jpeg ---------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A small tree of .jpg with the labels of the original order; (files, labels, pixels)."""
    labels = np.random.default_rng(0).permutation(np.arange(30) % 10).astype(np.uint8)
    files, pixels = {}, []
    for row, label in enumerate(labels):
        rank = int((labels[:row] == label).sum())
        grey = row == 7
        jpeg = encode(noise(row, (32, 32), "L" if grey else "RGB"), "JPEG", quality=75)
        files[f"CIFAR-10-images/train/{cifar.CLASSES[label]}/{rank:04}.jpg"] = jpeg
        pixels.append(jpeg)
    (tmp_path / "set").mkdir()
    np.savez(tmp_path / "set" / cifar.ORDER, train=labels, test=labels[:0])
    monkeypatch.setitem(cifar.PUBLISHED, "cifar10_jpeg", {})
    monkeypatch.setitem(cifar.COUNTS, "cifar10_jpeg", {"train": (30, 3), "test": (0, None)})
    return files, labels, pixels


def decoded(jpeg: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).transpose(2, 0, 1)


@pytest.mark.parametrize("turn", [1, -1])
def test_the_tree_comes_in_the_original_order(tmp_path, tree, turn):
    files, labels, jpegs = tree
    other = {"CIFAR-10-images/test/cat/0000.jpg": jpegs[0], "CIFAR-10-images/README.md": b""}
    pack(tmp_path / "set" / cifar.TREE[0], dict(list((files | other).items())[::turn]))
    data = load("cifar10_jpeg", root=tmp_path / "set")
    np.testing.assert_array_equal(data.labels, labels)
    np.testing.assert_array_equal(data.images, np.stack([decoded(jpeg) for jpeg in jpegs]))
    assert data.classes == cifar.CLASSES
    shutil.copytree(tmp_path / "set", tmp_path / "other")
    (tmp_path / "other" / cifar.TREE[0]).unlink()
    pack(tmp_path / "other", files)
    assert load("cifar10_jpeg", root=tmp_path / "other").fingerprint == data.fingerprint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda files, last: files.pop(last), "has 29 of the 30 images of train"),
        (
            lambda files, last: files.update({last.replace("0002", "0003"): files[last]}),
            "is one more than cifar10-original-order-labels.npz has labels for",
        ),
        (
            lambda files, last: files.update({last.replace("0002", "00002"): files[last]}),
            "00002.jpg twice",
        ),
        (lambda files, last: files.update({last: files[last][:200]}), "cannot be decoded"),
    ],
)
def test_a_tree_that_does_not_fit_its_labels_is_refused(tmp_path, tree, change, said):
    files, *_ = tree
    change(files, next(name for name in reversed(files) if name.endswith("0002.jpg")))
    pack(tmp_path / "set" / cifar.TREE[0], files)
    message = error_of("cifar10_jpeg", root=tmp_path / "set")
    assert said in message
    assert cifar.TREE[0] in message


def test_labels_that_are_no_arrays_are_refused(tmp_path, tree):
    pack(tmp_path / "set" / cifar.TREE[0], tree[0])
    order = tmp_path / "set" / cifar.ORDER
    order.write_bytes(order.read_bytes()[:-50])
    assert f"{order} is truncated or damaged" in error_of("cifar10_jpeg", root=tmp_path / "set")
    np.savez(order, train=np.array([Evil()], object))
    assert f"{order} is truncated or damaged" in error_of("cifar10_jpeg", root=tmp_path / "set")
