"""From pictures to pixels: decoded one by one and written as they come, however many there are."""

from __future__ import annotations

__all__ = ["PixelFile", "Progress", "UnequalSizesError", "decode", "to_pixels"]

import io
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.cache import DataError, cache_root, one_line, writing

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

EVERY = 10.0  # seconds between two lines of progress
CHUNK = 64 << 20  # bytes that are held when rows are put into another order
GREY = ("1", "L", "LA")
EIGHT_BIT = (*GREY, "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


class UnequalSizesError(DataError):
    """The images of a set differ in size."""


class Progress:
    """A plain line on stderr every ten seconds, for whoever waits."""

    def __init__(self, what: str) -> None:
        self.what, self.due = what, time.monotonic() + EVERY

    def __call__(self, done: str) -> None:
        if time.monotonic() >= self.due:
            print(f"{self.what}: {done}", file=sys.stderr, flush=True)
            self.due = time.monotonic() + EVERY


class PixelFile:
    """``images.npy`` (uint8, N x C x H x W), written row by row in a folder of the cache.

    C is 1 until the first colour image comes, then 3. Rows go through ordinary writes, as a full
    disk under a memory map would kill the process without a word.

    Args:
        folder: where the file goes, see ``datamodules.cache.fetch``.
        where: what messages begin with.
    """

    def __init__(self, folder: Path, where: str) -> None:
        self.path, self.where = folder / "images.npy", where
        self.root = cache_root()
        self.count, self.shape = 0, (0, 0, 0)
        self._progress = Progress(where)
        with writing(self.root):
            self._file = self.path.open("wb")

    def __enter__(self) -> PixelFile:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # on a full disk closing fails too
            self._file.close()

    def append(self, images: np.ndarray) -> None:
        """Add uint8 images (n, C, H, W); C is 1 or 3.

        Raises:
            UnequalSizesError: if they differ in size from those before.
            DataError: if the disk is full.
        """
        if not self.count:
            self.shape = images.shape[1:]
            self._write(_header(0, self.shape))
        if images.shape[2:] != self.shape[1:]:
            raise UnequalSizesError(
                f"{self.where}: image {self.count} is {_sides(images)} and those before it "
                f"{_sides(np.empty((1, *self.shape)))}; all must have one size"
            )
        if images.shape[1] > self.shape[0]:
            self._rewrite(np.arange(self.count), images.shape[1])
        elif images.shape[1] < self.shape[0]:
            images = images.repeat(self.shape[0], axis=1)
        self._write(np.ascontiguousarray(images).data)
        self.count += len(images)
        self._progress(f"{self.count:,} images decoded")

    def finish(self, order: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """The images, mapped: row i is the ``order[i]``-th that was added, or as they came."""
        if not self.count:
            raise DataError(f"{self.where}: no images")
        if order is not None and not np.array_equal(order, np.arange(self.count)):
            self._rewrite(np.asarray(order), self.shape[0])
        header = _header(self.count, self.shape)
        with writing(self.root):
            self._file.seek(0)
            self._file.write(header)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        return np.load(self.path, mmap_mode="r", allow_pickle=False)

    def _write(self, data: bytes | memoryview) -> None:
        with writing(self.root):
            self._file.write(data)

    def _rewrite(self, order: np.ndarray, channels: int) -> None:
        """Write all rows anew, in another order or with more channels."""
        offset = len(_header(0, self.shape))
        with writing(self.root):
            self._file.close()
            rows = np.memmap(self.path, np.uint8, "r", offset, (self.count, *self.shape))
            self.path.unlink()  # the map keeps its pages
            self._file = self.path.open("wb")
        self.shape = (channels, *self.shape[1:])
        self._write(_header(0, self.shape))
        step = max(1, CHUNK // int(np.prod(self.shape)))
        for at in range(0, len(order), step):
            part = rows[order[at : at + step]]
            if part.shape[1] < channels:
                part = part.repeat(channels, axis=1)
            self._write(np.ascontiguousarray(part).data)
            self._progress(f"{at + len(part):,} of {self.count:,} images put in order")


def _header(count: int, shape: Sequence[int]) -> bytes:
    # numpy leaves room in a header for its first axis to grow, so that its length stays
    file = io.BytesIO()
    about = {"shape": (count, *shape), "fortran_order": False, "descr": "|u1"}
    np.lib.format.write_array_header_1_0(file, about)
    return file.getvalue()


def _sides(images: np.ndarray) -> str:
    return "x".join(map(str, images.shape[2:]))


def decode(
    where: str,
    content: bytes,
    prepare: Callable[[Image.Image], Image.Image] | None = None,
    rgb: bool = False,
) -> np.ndarray:
    """An image file as uint8 (C, H, W).

    Args:
        where: the name of the file, for messages.
        prepare: crops or resizes the picture (mode L or RGB) that was decoded.
        rgb: grey images too get three channels; else they get one.

    Raises:
        DataError: if it cannot be decoded, or has more than eight bits a channel.
    """
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(content))
        picture.load()
    except Exception as error:  # Pillow meets damage with errors of many types
        raise DataError(f"{where} cannot be decoded: {one_line(error)}") from error
    return to_pixels(where, picture, prepare, rgb)


def to_pixels(
    where: str,
    picture: Any,
    prepare: Callable[[Image.Image], Image.Image] | None = None,
    rgb: bool = False,
) -> np.ndarray:
    """A PIL image as uint8 (C, H, W); see ``decode``."""
    if picture.mode not in EIGHT_BIT:
        raise DataError(f"{where} is {picture.mode}, not 8 bits a channel")
    grey = picture.mode in GREY and not rgb
    picture = picture.convert("L" if grey else "RGB")
    if prepare is not None:
        try:
            picture = prepare(picture)
        except ValueError as error:
            raise DataError(f"{where}: {one_line(error)}") from error
    pixels = np.asarray(picture)
    return pixels[None] if grey else pixels.transpose(2, 0, 1)
