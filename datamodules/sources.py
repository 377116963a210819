"""A data set by name: uint8 images, labels and class names of one split.

    digits               1,797 grey images of 8 x 8, embedded in scikit-learn; test = the last 297,
                         in the set's own order, train = the 1,500 before them; values 0..16 become
                         round(x * 255 / 16)
    mnist                70,000 grey images of 28 x 28, from the four IDX files, raw or gzipped
    cifar10, cifar10_lossless, cifar10_jpeg
                         RGB, 32 x 32; see ``datamodules.cifar``
    tiny_imagenet        RGB, 64 x 64, 200 classes; see ``datamodules.tiny_imagenet``
    imagenet_sample, image_folder[@<size>]:<path>
                         image files in folders named by class; see ``datamodules.image_folders``
    celeba, imagenet32 | 64 | 256 | 512, lsun_<category>
                         the papers' large sets; see ``datamodules.photographs``
    noise, channels      4 x 8 x 8, made here: independent pixels, all normal, or of four laws, one
                         a channel; see ``datamodules.synthetic``
    hub:<name>           any image data set that ``datasets`` can load, by its name on the Hub
                         (optionally ``<name>@<revision>``) or as a local folder; its first Image
                         column and its first ClassLabel column; grey if all of its images are,
                         else RGB

A source has the splits that its publisher made: who needs another validation set takes it from
train. ``load(..., size=16)`` gives box averages, decoded once as everything is.

To add a source, write a function that finds its inputs and one that reads them, and enter both in
``SOURCES``. Decoding happens once, see ``datamodules.cache``.
"""

from __future__ import annotations

__all__ = [
    "SOURCES",
    "DataError",
    "ImageSet",
    "Source",
    "first_per_class",
    "load",
    "obtain",
    "verify",
]

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datamodules.cache import Arrays, DataError, Entry, cache_root, fetch, fingerprint, locked
from datamodules.cifar import CIFAR10, CIFAR10_JPEG, CIFAR10_LOSSLESS
from datamodules.copies import copy_inputs
from datamodules.handwritten import DIGITS, MNIST
from datamodules.hub import hub_copy, hub_source, materialise, read_copy
from datamodules.image_folders import IMAGENET_SAMPLE, image_folder
from datamodules.photographs import PHOTOGRAPHS
from datamodules.pixels import PixelFile
from datamodules.places import Inputs, MissingError, Source
from datamodules.synthetic import CHANNELS, NOISE
from datamodules.tiny_imagenet import TINY_IMAGENET

import numpy as np

SOURCES: dict[str, Source] = {
    "digits": DIGITS,
    "mnist": MNIST,
    "cifar10": CIFAR10,
    "cifar10_lossless": CIFAR10_LOSSLESS,
    "cifar10_jpeg": CIFAR10_JPEG,
    "tiny_imagenet": TINY_IMAGENET,
    "imagenet_sample": IMAGENET_SAMPLE,
    **PHOTOGRAPHS,
    "noise": NOISE,
    "channels": CHANNELS,
}
STEP = 4096  # images that are averaged at a time

Read = Callable[[str, Inputs, Path], Arrays]


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
        verified: what the reader compared with published values, in words.
    """

    images: np.memmap
    labels: np.ndarray
    classes: tuple[str, ...]
    fingerprint: str
    source: str
    split: str
    verified: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


def load(
    source: str, split: str = "train", root: str | Path | None = None, size: int | None = None
) -> ImageSet:
    """One split of a source, from the cache, which is filled first if need be.

    The files of a source are looked for in ``root``, ``$ENTROFLOW_DATA/<source>``,
    ``$ENTROFLOW_DATA`` and ``<cache>/<source>``, in this order; last comes the copy that
    ``obtain`` has fetched from the Hub. ``digits`` and ``hub:`` need no files and ignore ``root``.

    Args:
        size: height and width wanted, by box averages rounded to integers; a divisor of the
            source's own. Images of 28 x 28 (MNIST and its kin) are first padded to 32 with zeros.

    Raises:
        DataError: if source or split are unknown, the size does not divide, or the data are
            missing, damaged or unusable; in one line that says what was looked for, where, and
            what to do.
    """
    known = _source(source)
    place = None if root is None else Path(root).expanduser()
    # Sets of any splits are not asked for theirs each time: that would need the network, or a
    # walk through an archive.
    if source in SOURCES and split not in (splits := known.splits(place)):
        raise DataError(f"{source} has no split {split!r}; it has {', '.join(splits)}")
    inputs, read = _find(source, known, split, place)
    name = known.entry or source

    def base() -> Entry:
        return fetch(name, split, inputs, lambda folder: read(split, inputs, folder))

    if size is None:
        entry = base()
    else:
        entry = fetch(
            f"{name}-{size}px",
            split,
            (*inputs, "box averages"),
            lambda folder: _average(f"{source} {split}", base(), size, folder),
        )
    return ImageSet(
        images=entry.images,
        labels=entry.labels,
        classes=tuple(entry.meta["classes"]),
        fingerprint=entry.meta["fingerprint"],
        source=source,
        split=split,
        verified=tuple(entry.meta["verified"]),
    )


def obtain(source: str, root: str | Path | None = None) -> list[str]:
    """Bring the files of a source into ``<cache>/<source>`` if they are not at hand, and verify.

    Files in ``root`` or in the cache stay where they are; else those in ``$ENTROFLOW_DATA`` are
    copied; else the Hub's copy is fetched. What is there already is not copied again, and a copy
    that was broken off is taken up.

    Returns:
        lines that say what was found, copied or fetched, from where to where, and what was
        verified.

    Raises:
        DataError: if the files are nowhere, the Hub is out of reach, the cache cannot be written,
            or the content fails its verification.
    """
    known = _source(source)
    place = None if root is None else Path(root).expanduser()
    if source not in SOURCES:
        return verify(source, place)
    home = cache_root() / (known.home or source)
    with locked(home):
        try:
            inputs = [known.locate(split, place) for split in known.splits(place)]
        except MissingError:
            if known.hub is None:
                raise
            lines = materialise(source, known.hub)
        else:
            files = dict.fromkeys(path for paths in inputs for path in paths)
            lines = copy_inputs(source, [p for p in files if isinstance(p, Path)], home, place)
    return [*lines, *verify(source, place)]


def verify(source: str, root: str | Path | None = None) -> list[str]:
    """Load every split of a source, check its content in full, and describe it in one line each.

    Raises:
        DataError: as ``load`` does, and if cached content no longer has its fingerprint.
    """
    lines = []
    for split in _source(source).splits(None if root is None else Path(root).expanduser()):
        data = load(source, split, root)
        if fingerprint(data.images, data.labels) != data.fingerprint:
            folder = Path(str(data.images.filename)).parent
            raise DataError(f"{source} {split}: the cache entry {folder} is damaged; delete it")
        size = "x".join(map(str, data.images.shape[1:]))
        published = f"; as published: {', '.join(data.verified)}" if data.verified else ""
        lines.append(
            f"{source} {split}: {len(data)} images {size}, {len(data.classes)} classes, "
            f"fingerprint {data.fingerprint[:12]}{published}"
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
    if (folder := image_folder(name)) is not None:
        return folder
    if name.startswith("hub:") and name != "hub:":
        return hub_source(name.removeprefix("hub:"))
    raise DataError(
        f"unknown source {name!r}; known are {', '.join(SOURCES)}, image_folder:<path> and "
        "hub:<name>"
    )


def _find(source: str, known: Source, split: str, root: Path | None) -> tuple[Inputs, Read]:
    """What an entry is made from, and by what it is read: the source's files or its Hub copy."""
    try:
        return known.locate(split, root), known.read
    except MissingError:
        if known.hub is None or not hub_copy(source).is_dir():
            raise
        return (hub_copy(source),), partial(read_copy, source, known.hub)


def _average(where: str, base: Entry, size: int, folder: Path) -> Arrays:
    from datamodules.resizing import box_average, pad_to

    side = base.images.shape[2:]
    with PixelFile(folder, where) as pixels:
        for at in range(0, len(base.labels), STEP):
            part = base.images[at : at + STEP]
            if side == (28, 28) and size != 28:
                part = pad_to(part, 32)
            try:
                pixels.append(box_average(part, size))
            except ValueError as error:
                raise DataError(f"{where}: {error}") from error
        images = pixels.finish()
    meta = base.meta
    verified = (*meta["verified"], f"box averages of {meta['fingerprint'][:12]}")
    return Arrays(images, base.labels, tuple(meta["classes"]), verified)
