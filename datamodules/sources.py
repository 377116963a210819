"""A data set by name: uint8 images, labels and class names of one split.

    digits        1,797 grey images of 8 x 8, embedded in scikit-learn; test = the last 297, in the
                  set's own order, train = the 1,500 before them; values 0..16 become
                  round(x * 255 / 16)
    mnist         70,000 grey images of 28 x 28, from the four IDX files, raw or gzipped
    hub:<name>    any image data set that ``datasets`` can load, by its name on the Hub (optionally
                  ``<name>@<revision>``) or as a local folder; its first Image column and its first
                  ClassLabel column; grey if all of its images are, else RGB

``digits`` and ``mnist`` have the splits ``train`` and ``test`` alone: who needs a validation set
takes it from train. A set on the Hub has the splits that it names.

To add a source, write a function that finds its inputs and one that reads them, and enter both in
``SOURCES``. Decoding happens once, see ``datamodules.cache``.
"""

from __future__ import annotations

__all__ = ["SOURCES", "DataError", "ImageSet", "Source", "first_per_class", "load", "verify"]

import gzip
import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from datamodules.cache import Arrays, DataError, cache_root, fetch, fingerprint, one_line

import numpy as np

Inputs = tuple[Path | str, ...]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """One split of one source.

    Attributes:
        images: uint8, (N, C, H, W), 0..255, memory-mapped and read-only.
        labels: int64, (N,), indices into ``classes``, read-only.
        classes: the names of the classes.
        fingerprint: SHA-256 (hex) of shapes, images and labels; equal for equal data.
        source: the name it was loaded by.
        split: the split it was loaded by.
    """

    images: np.memmap
    labels: np.ndarray
    classes: tuple[str, ...]
    fingerprint: str
    source: str
    split: str

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Source:
    """How a data set is found and read.

    Attributes:
        splits: () to the names of its splits.
        locate: (split, root or None) to the inputs that the cache entry is made from: files and
            folders, or strings that stand for themselves; raises DataError if they are missing.
        read: (split, inputs) to the decoded arrays; raises DataError if an input is damaged.
    """

    splits: Callable[[], Sequence[str]]
    locate: Callable[[str, Path | None], Inputs]
    read: Callable[[str, Inputs], Arrays]


def load(source: str, split: str = "train", *, root: str | Path | None = None) -> ImageSet:
    """One split of a source, from the cache, which is filled first if need be.

    The files of a source are looked for in ``root``, ``$ENTROFLOW_DATA/<source>``,
    ``$ENTROFLOW_DATA`` and ``<cache>/<source>``, in this order. ``digits`` and ``hub:`` need no
    files and ignore ``root``.

    Raises:
        DataError: if source or split are unknown, or the data missing, damaged or unusable; in one
            line that says what was looked for, where, and what to do.
    """
    known = _source(source)
    # A Hub set is not asked for its splits each time: that would need the network.
    if source in SOURCES and split not in known.splits():
        raise DataError(f"{source} has no split {split!r}; it has {', '.join(known.splits())}")
    inputs = known.locate(split, None if root is None else Path(root).expanduser())
    entry = fetch(source, split, inputs, lambda: known.read(split, inputs))
    meta = entry.meta
    return ImageSet(
        images=entry.images,
        labels=entry.labels,
        classes=tuple(meta["classes"]),
        fingerprint=meta["fingerprint"],
        source=source,
        split=split,
    )


def verify(source: str, root: str | Path | None = None) -> list[str]:
    """Load every split of a source, check its content in full, and describe it in one line each.

    Raises:
        DataError: as ``load`` does, and if cached content no longer has its fingerprint.
    """
    lines = []
    for split in _source(source).splits():
        data = load(source, split, root=root)
        if fingerprint(data.images, data.labels) != data.fingerprint:
            folder = Path(str(data.images.filename)).parent
            raise DataError(f"{source} {split}: the cache entry {folder} is damaged; delete it")
        size = "x".join(map(str, data.images.shape[1:]))
        lines.append(
            f"{source} {split}: {len(data)} images {size}, {len(data.classes)} classes, "
            f"fingerprint {data.fingerprint[:12]}"
        )
    return lines


def first_per_class(labels: np.ndarray, n: int) -> np.ndarray:
    """Indices (int64, ascending) of the first ``n`` items of each class in ``labels`` (N,).

    A class that has fewer gives all it has.

    Raises:
        ValueError: if ``n`` is negative or ``labels`` is not one-dimensional.
    """
    labels = np.asarray(labels)
    if n < 0 or labels.ndim != 1:
        raise ValueError(f"need n >= 0 and labels of one dimension, got {n} and {labels.shape}")
    order = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(starts, counts)
    return np.sort(order[rank < n])


def _source(name: str) -> Source:
    if name in SOURCES:
        return SOURCES[name]
    if name.startswith("hub:") and name != "hub:":
        hub = name.removeprefix("hub:")
        return Source(lambda: _hub_splits(hub), lambda split, root: _hub_inputs(hub), _hub_read)
    raise DataError(f"unknown source {name!r}; known are {', '.join(SOURCES)} and hub:<name>")


def find_files(source: str, names: Sequence[tuple[str, ...]], root: Path | None) -> Inputs:
    """The files of ``source``, all from the first folder that has them all.

    Args:
        names: for each file wanted, the names it may have, the preferred one first.

    Raises:
        DataError: if no folder has them all.
    """
    data = os.environ.get("ENTROFLOW_DATA")
    folders = [] if root is None else [root]
    if data:
        folders += [Path(data).expanduser() / source, Path(data).expanduser()]
    folders.append(cache_root() / source)
    for folder in folders:
        found = [[folder / n for n in choice if (folder / n).is_file()] for choice in names]
        if all(found):
            return tuple(paths[0] for paths in found)
    wanted = " and ".join(" or ".join(choice) for choice in names)
    raise DataError(
        f"{source}: no folder has {wanted}; looked in {', '.join(map(str, folders))}"
        f"{'' if data else ' (ENTROFLOW_DATA is not set)'}; "
        f"get it with `make data SOURCE={source}`"
    )


# digits ---------------------------------------------------------------------------------------

DIGITS_TEST = 297


def _digits_inputs(split: str, root: Path | None) -> Inputs:
    try:
        return (f"scikit-learn {version('scikit-learn')}",)
    except PackageNotFoundError:
        raise DataError("digits come with scikit-learn; pip install scikit-learn") from None


def _digits_read(split: str, inputs: Inputs) -> Arrays:
    from sklearn.datasets import load_digits

    values, labels = map(np.asarray, load_digits(return_X_y=True))
    part = slice(-DIGITS_TEST, None) if split == "test" else slice(None, -DIGITS_TEST)
    images = np.rint(values[part].reshape(-1, 1, 8, 8) * 255 / 16).astype(np.uint8)
    return Arrays(images, labels[part], tuple(map(str, range(10))))


# mnist ----------------------------------------------------------------------------------------

MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}


def _mnist_inputs(split: str, root: Path | None) -> Inputs:
    return find_files("mnist", [(f"{name}.gz", name) for name in MNIST_FILES[split]], root)


def _mnist_read(split: str, inputs: Inputs) -> Arrays:
    images_path, labels_path = map(Path, inputs)
    images, labels = _read_idx(images_path, 3), _read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} has {len(images)} images, {labels_path} {len(labels)} labels"
        )
    return Arrays(images[:, None], labels, tuple(map(str, range(10))))


def _read_idx(path: Path, ndim: int) -> np.ndarray:
    """An IDX file: 0, 0, 8 (unsigned byte), ndim; then ndim big-endian sizes; then the bytes."""
    try:
        raw = path.read_bytes()
        data = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} is truncated or damaged ({one_line(error)}); get it again"
        ) from error
    expected = MNIST_MD5.get(path.name)
    md5 = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if expected not in (None, md5):
        raise DataError(
            f"{path} is not the published file: md5 {md5}, not {expected}; get it again"
        )
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


# hub ------------------------------------------------------------------------------------------

GREY = ("1", "L", "LA")
EIGHT_BIT = (*GREY, "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


def _hub_inputs(name: str) -> Inputs:
    # A set on the Hub counts by name and revision alone, so that a cached one opens offline.
    folder = Path(name).expanduser()
    return (folder.resolve(),) if folder.is_dir() else (name,)


def _hub_address(place: Path | str) -> tuple[str, str | None]:
    if isinstance(place, Path):
        return str(place), None
    path, _, revision = place.partition("@")
    return path, revision or None


def _hub_error(name: Path | str, error: Exception) -> DataError:
    return DataError(
        f"hub:{name} cannot be loaded ({one_line(error)}); "
        "it needs the network once, or give the folder of a local copy: hub:<folder>"
    )


def _hub_splits(name: str) -> Sequence[str]:
    from datasets import get_dataset_split_names

    (place,) = _hub_inputs(name)
    path, revision = _hub_address(place)
    with tempfile.TemporaryDirectory() as scratch:
        tables = scratch if isinstance(place, Path) else None
        try:
            return get_dataset_split_names(path, revision=revision, cache_dir=tables)
        except Exception as error:  # whatever a foreign format or the network comes up with
            raise _hub_error(name, error) from error


def _hub_read(split: str, inputs: Inputs) -> Arrays:
    import datasets

    (name,) = inputs
    path, revision = _hub_address(name)
    # A local copy needs no second one in the library's own cache, so its tables are passing.
    with tempfile.TemporaryDirectory(dir=cache_root(), prefix="hub-") as scratch:
        tables = scratch if isinstance(name, Path) else None
        try:
            table = datasets.load_dataset(path, split=split, revision=revision, cache_dir=tables)
        except Exception as error:
            raise _hub_error(name, error) from error
        types = table.features.items()
        image = next((key for key, kind in types if isinstance(kind, datasets.Image)), None)
        label = next((key for key, kind in types if isinstance(kind, datasets.ClassLabel)), None)
        if image is None or label is None:
            columns = ", ".join(f"{key} ({type(kind).__name__})" for key, kind in types)
            raise DataError(f"hub:{name} needs an Image and a ClassLabel column; it has {columns}")
        pictures = (row[image] for row in table.select_columns(image))
        images = _stack(f"hub:{name} {split}", pictures, len(table))
        return Arrays(images, np.asarray(table[label][:]), tuple(table.features[label].names))


def _stack(where: str, pictures: Iterable[Any], count: int) -> np.ndarray:
    """PIL images of one size as uint8 (N, C, H, W); C is 1 if all are grey, else 3."""
    images: np.ndarray = np.empty((0, 1, 0, 0), np.uint8)
    try:
        for index, picture in enumerate(pictures):
            mode = "missing" if picture is None else picture.mode
            if picture is None or mode not in EIGHT_BIT:
                raise DataError(f"{where}: image {index} is {mode}, not 8 bits a channel")
            grey = mode in GREY
            pixels = np.asarray(picture.convert("L" if grey else "RGB"))
            pixels = pixels[None] if grey else pixels.transpose(2, 0, 1)
            if index == 0:
                images = np.empty((count, *pixels.shape), np.uint8)
            if pixels.shape[1:] != images.shape[2:]:
                raise DataError(
                    f"{where}: image {index} is {'x'.join(map(str, pixels.shape[1:]))} and those "
                    f"before it {'x'.join(map(str, images.shape[2:]))}; all must have one size"
                )
            if len(pixels) > images.shape[1]:
                images = images.repeat(3, axis=1)
            images[index] = pixels
    except OSError as error:
        raise DataError(f"{where}: an image cannot be decoded: {one_line(error)}") from error
    return images


SOURCES: dict[str, Source] = {
    "digits": Source(lambda: ("train", "test"), _digits_inputs, _digits_read),
    "mnist": Source(lambda: tuple(MNIST_FILES), _mnist_inputs, _mnist_read),
}
