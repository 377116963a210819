"""Image sets that come as numbered batches of bytes, as CIFAR-10 and the downsampled ImageNets do.

A batch holds ``data`` (uint8, N x 3 S^2: a red, a green and a blue plane) and ``labels``; it is a
pickle, read without its powers, or an ``.npz``.
"""

from __future__ import annotations

__all__ = ["load_batch", "read_batches"]

import io
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from datamodules.archives import members
from datamodules.cache import DataError, one_line
from datamodules.pickles import unpickle
from datamodules.pixels import PixelFile

import numpy as np


def load_batch(where: str, content: bytes, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (N, 3, side, side), and labels, int64 (N,), of one batch.

    Raises:
        DataError: as ``unpickle`` does, or if ``data`` and ``labels`` have other shapes or types.
    """
    if content.startswith(b"PK"):
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                batch = {name: arrays[name] for name in ("data", "labels")}
        except Exception as error:  # a damaged archive may come to grief anywhere
            raise DataError(
                f"{where} is truncated or no data batch ({one_line(error)}); get it again"
            ) from error
    else:
        batch = unpickle(where, content)
    data, labels = batch.get("data"), batch.get("labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2:
        raise DataError(f"{where} has no `data` of bytes with two dimensions; get it again")
    if data.shape[1] != 3 * side * side:
        raise DataError(f"{where} has {data.shape[1]} bytes an image, not 3 x {side} x {side}")
    if isinstance(labels, list) and all(type(label) is int for label in labels):
        labels = np.array(labels)
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        raise DataError(f"{where} has no `labels` that are integers; get it again")
    if labels.shape != data.shape[:1]:
        raise DataError(f"{where} has {len(data)} images but labels of shape {labels.shape}")
    return data.reshape(-1, 3, side, side), labels.astype(np.int64)


def read_batches(
    where: str,
    paths: Sequence[Path],
    wanted: Sequence[str],
    side: int,
    folder: Path,
    also: Callable[[str, bytes], None] = lambda name, content: None,
) -> tuple[np.ndarray, np.ndarray]:
    """All images, mapped, and labels of the ``wanted`` batches, in that order.

    Args:
        paths: the folders or archives that have them; the first of each name counts.
        wanted: names of files, without folder and ``.npz``.
        side: S, height and width of the images.
        folder: of the cache entry.
        also: is shown every member (name, content) of which ``wanted`` has the name, and
            ``batches.meta``.

    Raises:
        DataError: if a batch is missing, damaged, or of another size.
    """
    labels: dict[str, np.ndarray] = {}
    rows: dict[str, np.ndarray] = {}
    with PixelFile(folder, where) as pixels:
        for path in paths:
            for name, read in members(path):
                batch = PurePosixPath(name).name.removesuffix(".npz")
                if batch not in (*wanted, "batches.meta") or batch in labels:
                    continue
                content = read()
                also(name, content)
                if batch in wanted:
                    images, labels[batch] = load_batch(f"{path}: {name}", content, side)
                    rows[batch] = pixels.count + np.arange(len(images))
                    pixels.append(images)
        if missing := [batch for batch in wanted if batch not in labels]:
            raise DataError(
                f"{where}: {' and '.join(map(str, paths))} has no {' and no '.join(missing)}; "
                "get it again"
            )
        mapped = pixels.finish(np.concatenate([rows[batch] for batch in wanted]))
    return mapped, np.concatenate([labels[batch] for batch in wanted])
