"""Digits written by hand: scikit-learn's embedded ones and MNIST's IDX files."""

from __future__ import annotations

__all__ = ["DIGITS", "MNIST"]

import gzip
import zlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from datamodules.cache import Arrays, DataError, one_line
from datamodules.places import Hub, Inputs, Source, check_counts, check_file, find

import numpy as np

CLASSES = tuple(map(str, range(10)))
DIGITS_TEST = 297
MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
MNIST_COUNTS = {"train": 60_000, "test": 10_000}
MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}


def _digits_inputs(split: str, root: Path | None) -> Inputs:
    try:
        return (f"scikit-learn {version('scikit-learn')}",)
    except PackageNotFoundError:
        raise DataError("digits come with scikit-learn; pip install scikit-learn") from None


def _digits_read(split: str, inputs: Inputs, folder: Path) -> Arrays:
    from sklearn.datasets import load_digits

    values, labels = map(np.asarray, load_digits(return_X_y=True))
    part = slice(-DIGITS_TEST, None) if split == "test" else slice(None, -DIGITS_TEST)
    images = np.rint(values[part].reshape(-1, 1, 8, 8) * 255 / 16).astype(np.uint8)
    return Arrays(images, labels[part], CLASSES)


def _mnist_inputs(split: str, root: Path | None) -> Inputs:
    return find("mnist", [(f"{name}.gz", name) for name in MNIST_FILES[split]], root)


def _mnist_read(split: str, inputs: Inputs, folder: Path) -> Arrays:
    images_path, labels_path = map(Path, inputs)
    images, labels = _read_idx(images_path, 3), _read_idx(labels_path, 1)
    verified = (*check_file(images_path, MNIST_MD5), *check_file(labels_path, MNIST_MD5))
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} has {len(images)} images, {labels_path} {len(labels)} labels"
        )
    verified += check_counts(f"mnist {split}", labels, 10, (MNIST_COUNTS[split], None))
    return Arrays(images[:, None], labels, CLASSES, verified)


def _read_idx(path: Path, ndim: int) -> np.ndarray:
    """An IDX file: 0, 0, 8 (unsigned byte), ndim; then ndim big-endian sizes; then the bytes."""
    try:
        raw = path.read_bytes()
        data = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} is truncated or damaged ({one_line(error)}); get it again"
        ) from error
    magic = bytes([0, 0, 8, ndim])
    if data[:4] != magic:
        raise DataError(
            f"{path} begins with {data[:4].hex()}, not {magic.hex()}: no IDX{ndim} file"
        )
    start = 4 + 4 * ndim
    if len(data) < start:
        raise DataError(f"{path} is truncated: its header ends after {len(data)} bytes")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", ndim, offset=4))
    if len(data) - start != int(np.prod(shape)):
        raise DataError(f"{path} holds {len(data) - start} bytes of data, its header says {shape}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


DIGITS = Source(lambda root: ("train", "test"), _digits_inputs, _digits_read)
MNIST = Source(
    lambda root: tuple(MNIST_FILES),
    _mnist_inputs,
    _mnist_read,
    Hub("ylecun/mnist", {split: (split, count) for split, count in MNIST_COUNTS.items()}),
)
