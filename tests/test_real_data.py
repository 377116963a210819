"""The real data sets: the counts, shapes and contents that their publishers state.

The session's tests share one cache, so that each archive is decoded once.
"""

from __future__ import annotations

import os
from pathlib import Path

from datamodules.sources import load, verify

import numpy as np
import pytest

REAL = os.environ.get("ENTROFLOW_DATA")
pytestmark = pytest.mark.data


def needs(*folders):
    missing = [name for name in folders if not REAL or not (Path(REAL) / name).is_dir()]
    return pytest.mark.skipif(
        bool(missing), reason=f"ENTROFLOW_DATA has no folder {' and no '.join(missing)}"
    )


def counts(data) -> list[int]:
    return np.bincount(data.labels, minlength=len(data.classes)).tolist()


@needs("mnist")
def test_mnist_is_the_published_one():
    train, test = load("mnist"), load("mnist", "test")
    assert (train.images.shape, test.images.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    assert train.labels[:6].tolist() == [5, 0, 4, 1, 9, 2]
    assert test.labels[:6].tolist() == [7, 2, 1, 0, 4, 1]
    assert counts(train) == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert abs(train.images.mean() / 255 - 0.1307) < 5e-5  # the mean that everyone normalises by
    assert abs(train.images.std() / 255 - 0.3081) < 5e-5
    assert train.verified[:2] == (
        "md5 of train-images-idx3-ubyte.gz",
        "md5 of train-labels-idx1-ubyte.gz",
    )
    assert train.fingerprint.startswith("b96f6dfa3100")
    assert f"fingerprint {train.fingerprint[:12]}; as published: md5" in verify("mnist")[0]


@needs("mnist")
def test_mnist_at_16_px_keeps_the_mean_of_the_padded_images():
    whole, small = load("mnist", "test"), load("mnist", "test", size=16)
    assert small.images.shape == (10000, 1, 16, 16)
    means = whole.images.mean((1, 2, 3)) * (28 / 32) ** 2
    np.testing.assert_allclose(small.images.mean((1, 2, 3)), means, atol=0.1)
    np.testing.assert_array_equal(small.labels, whole.labels)


@needs("cifar10_lossless")
def test_cifar10_lossless_is_the_published_subset(tmp_path, monkeypatch):
    train, test = load("cifar10_lossless"), load("cifar10_lossless", "test")
    assert (train.images.shape, test.images.shape) == ((4656, 3, 32, 32), (1000, 3, 32, 32))
    names = [train.classes[label] for label in train.labels[:6]]
    assert names == ["frog", "truck", "truck", "deer", "automobile", "automobile"]
    assert [test.classes[label] for label in test.labels[:4]] == [
        "cat",
        "ship",
        "ship",
        "airplane",
    ]
    means = train.images.mean((0, 2, 3)) / 255
    np.testing.assert_allclose(means, [0.4915, 0.4813, 0.4437], atol=5e-5)
    assert "sha256 of data_batch_5" in train.verified
    monkeypatch.setenv("ENTROFLOW_CACHE", str(tmp_path))
    assert load("cifar10_lossless").fingerprint == train.fingerprint
    assert train.fingerprint.startswith("82c6bf084f5a")
    assert test.fingerprint.startswith("41b8fd4e16b3")


@pytest.mark.slow
@needs("cifar10_jpeg", "cifar10_lossless")
def test_cifar10_jpeg_is_the_whole_set_in_order_but_through_jpeg():
    train, test = load("cifar10_jpeg"), load("cifar10_jpeg", "test")
    assert (train.images.shape, test.images.shape) == ((50000, 3, 32, 32), (10000, 3, 32, 32))
    assert (counts(train), counts(test)) == ([5000] * 10, [1000] * 10)
    exact = {split: load("cifar10_lossless", split) for split in ("train", "test")}
    assert train.classes == exact["train"].classes
    first = [k * 10000 + np.arange(4000 if k == 0 else 164) for k in range(5)]
    for lossy, split, rows in (
        (train, "train", np.concatenate(first)),
        (test, "test", np.arange(1000)),
    ):
        np.testing.assert_array_equal(lossy.labels[rows], exact[split].labels)
        difference = lossy.images[rows].astype(np.float32) - exact[split].images
        error = np.sqrt(np.square(difference).mean((1, 2, 3)))
        assert abs(error.mean() - 7.9) < 0.1
        assert 1 < error.min() < error.max() < 18


@pytest.mark.slow
@needs("tiny_imagenet")
def test_tiny_imagenet_has_its_classes_and_smaller_sizes():
    train, val = load("tiny_imagenet"), load("tiny_imagenet", "val")
    each = len(train) // 200
    assert each in (100, 300, 500)
    assert (train.images.shape, val.images.shape) == (
        (200 * each, 3, 64, 64),
        (10000, 3, 64, 64),
    )
    assert (counts(train), counts(val)) == ([each] * 200, [50] * 200)
    assert train.classes == val.classes
    assert train.classes[:3] == ("Egyptian cat", "reel", "volleyball")
    assert [val.classes[label] for label in val.labels[:3]] == ["go-kart", "reel", "refrigerator"]
    part = np.array(val.images[:200]).astype(np.float32)
    for size in (32, 16):
        small = load("tiny_imagenet", "val", size=size)
        assert small.images.shape == (10000, 3, size, size)
        box = 64 // size
        blocks = part.reshape(200, 3, size, box, size, box).mean((3, 5))
        assert np.abs(small.images[:200] - blocks).max() <= 0.5


@needs("imagenet_sample")
def test_imagenet_sample_has_one_photograph_of_each_class():
    data = load("imagenet_sample")
    assert data.images.shape == (1000, 3, 256, 256)
    assert counts(data) == [1] * 1000
    assert (data.classes[0], data.classes[2]) == ("tench", "great white shark")
    assert len(set(data.classes)) == 1000
    assert data.verified[0] == "sha256 of imagenet-sample-256.tar"
