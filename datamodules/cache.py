"""The image cache: each split of each source is decoded once and memory-mapped ever after.

An entry is a folder ``<source>-<split>-<12 hex of its key>`` under ``$ENTROFLOW_CACHE`` (else
``~/.cache/entroflow``) that holds

    images.npy   uint8, N x C x H x W
    labels.npy   int64, N
    meta.json    source, split, counts, classes, the SHA-256 fingerprint of the content, and what
                 the reader verified

The key covers the source's input files, so that changed files make a new entry. Processes that
want the same entry at once build it once; the others wait on a ``flock``, which dies with its
process. An entry is built in ``<entry>.partial``, where readers of large sets write their images
as they decode them, and appears by rename: it is whole or absent.
"""

from __future__ import annotations

__all__ = [
    "Arrays",
    "DataError",
    "Entry",
    "cache_root",
    "fetch",
    "fingerprint",
    "identify",
    "locked",
    "one_line",
    "visible_files",
    "writing",
]

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

FORMAT = 2  # raise it when what an entry holds, or how a source is decoded, changes
WHOLE = 64 << 20  # files and folders up to this many bytes are identified by all of their content
SAMPLE = 1 << 20  # of larger ones, this much of either end is read


class DataError(RuntimeError):
    """Data are missing, damaged or unusable. The message is one line and names the mend."""


class Arrays(NamedTuple):
    """What a reader decodes: uint8 images (N, C, H, W), integer labels (N,), class names.

    ``verified`` says in words what the reader compared with published values.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    verified: tuple[str, ...] = ()


class Entry(NamedTuple):
    """An open entry: memory-mapped uint8 images (N, C, H, W), int64 labels (N,), its meta.json."""

    images: np.memmap
    labels: np.ndarray
    meta: dict[str, Any]


def one_line(error: BaseException) -> str:
    """The message of ``error`` as a single line, its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def cache_root() -> Path:
    """The cache folder, absolute; it need not exist yet.

    Raises:
        DataError: if it lies inside the checkout, which no run may fill with data.
    """
    root = Path(os.environ.get("ENTROFLOW_CACHE") or "~/.cache/entroflow").expanduser().resolve()
    checkout = Path(__file__).resolve().parents[1]
    if root.is_relative_to(checkout):
        raise DataError(
            f"the cache {root} lies inside the checkout {checkout}; "
            "set ENTROFLOW_CACHE to a folder outside it"
        )
    return root


def identify(inputs: Sequence[Path | str]) -> str:
    """SHA-256 (hex) of a source's inputs: what must be equal for an entry to be used again.

    A string stands for itself, a file for its name and content, a folder for all visible files
    below it. Where they lie does not matter. As reading all at each opening would cost seconds,
    files above 64 MiB count by size, time of change and their first and last MiB, and the files
    of a folder that holds more than 64 MiB by size and time of change.

    Raises:
        DataError: if a file cannot be read.
    """
    digest = hashlib.sha256()
    for item in inputs:
        if isinstance(item, str):
            digest.update(json.dumps(["text", item]).encode())
            continue
        try:
            if not item.is_dir():
                digest.update(json.dumps(["file", item.name, _content(item)]).encode())
                continue
            below = [(name, path, path.stat()) for name, path in visible_files(item)]
            large = sum(status.st_size for *_, status in below) > WHOLE
            for name, path, status in below:
                seen = f"{status.st_size} {status.st_mtime_ns}" if large else _content(path)
                digest.update(json.dumps(["file", name, seen]).encode())
        except OSError as error:
            raise DataError(f"{item} cannot be read: {one_line(error)}") from error
    return digest.hexdigest()


def visible_files(folder: Path) -> list[tuple[str, Path]]:
    """(name relative to ``folder``, path) of each file below it, sorted; none that is hidden."""
    found = []
    for place, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(place, name) for name in files if not name.startswith(".")]
        found += [(path.relative_to(folder).as_posix(), path) for path in paths]
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise error  # os.walk passes over folders that it may not read


def _content(path: Path) -> str:
    status = path.stat()
    with path.open("rb") as file:
        if status.st_size <= WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        head = file.read(SAMPLE)
        file.seek(-SAMPLE, os.SEEK_END)
        ends = hashlib.sha256(head + file.read(SAMPLE)).hexdigest()
        return f"{status.st_size} {status.st_mtime_ns} {ends}"


def fingerprint(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 (hex) of the decoded content: shapes, image bytes, labels as little-endian int64.

    It does not depend on the container, so equal data from two containers have one fingerprint.
    """
    digest = hashlib.sha256(json.dumps([images.shape, labels.shape]).encode())
    digest.update(np.ascontiguousarray(images, dtype=np.uint8).data)
    digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return digest.hexdigest()


def fetch(
    source: str, split: str, inputs: Sequence[Path | str], build: Callable[[Path], Arrays]
) -> Entry:
    """Open the cache entry of ``source`` and ``split``, building it first if there is none.

    An entry whose files do not have the sizes that its meta.json states is set aside (one line on
    stderr) and built again. Opening compares sizes only; see ``fingerprint`` for the content.

    Args:
        inputs: what the entry is made from, see ``identify``.
        build: decodes the inputs; called at most once, by one process at a time, with the folder
            that becomes the entry: large images are written there as ``images.npy`` and returned
            mapped.

    Raises:
        DataError: if ``build`` raises it or yields unusable arrays, or if the cache cannot be
            written.
    """
    key = hashlib.sha256(
        json.dumps([FORMAT, source, split, identify(inputs)]).encode()
    ).hexdigest()
    root = cache_root()
    folder = root / f"{_slug(source)}-{_slug(split)}-{key[:12]}"
    try:
        entry = _open(folder, key)
    except _CORRUPT:
        entry = None  # looked at again, under the lock
    if entry is not None:
        return entry
    with locked(folder):
        try:
            entry = _open(folder, key)
        except _CORRUPT as error:
            with writing(root):
                _set_aside(folder, one_line(error))
        if entry is None:
            # its owner holds the lock: one name will do
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            try:
                with writing(root):
                    partial.mkdir()
                arrays = _usable(source, split, build(partial))
                with writing(root):
                    _write(partial, key, source, split, arrays)
                    partial.rename(folder)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            entry = _open(folder, key)
    if entry is None:
        raise DataError(f"the cache entry {folder} vanished while it was opened; run again")
    return entry


_CORRUPT = (OSError, ValueError, KeyError, TypeError, EOFError)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("._")[-60:] or "_"


def _open(folder: Path, key: str) -> Entry | None:
    """The entry in ``folder``, None if there is no such folder; raises if it is damaged."""
    if not folder.is_dir():
        return None
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    if meta["format"] != FORMAT or meta["key"] != key:
        raise ValueError("meta.json belongs to another entry")
    images = _map(folder / "images.npy", np.uint8, tuple(meta["shape"]))
    labels = np.array(_map(folder / "labels.npy", np.int64, (meta["count"],)))
    labels.flags.writeable = False
    return Entry(images, labels, meta)


def _map(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{path.name} is {array.dtype} {array.shape}, not {shape}")
    size = path.stat().st_size
    if size != array.offset + array.nbytes:
        raise ValueError(f"{path.name} has {size} bytes, not {array.offset + array.nbytes}")
    return array


def _set_aside(folder: Path, reason: str) -> None:
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    print(f"cache entry set aside as {aside} and rebuilt: {reason}", file=sys.stderr)


def _usable(source: str, split: str, arrays: Arrays) -> Arrays:
    images, labels, classes, verified = arrays
    where = f"{source} {split}"
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise DataError(
            f"{where}: images are {images.dtype} {images.shape}, not uint8 N x C x H x W"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"{where}: {images.shape[0]} images but labels {labels.dtype} {labels.shape}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(classes):
        raise DataError(f"{where}: labels {low}..{high} do not fit {len(classes)} classes")
    return Arrays(images, labels.astype(np.int64), tuple(classes), tuple(verified))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone on this machine: one process at a time holds the lock beside ``folder``."""
    with writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f"{folder.name}.lock").open("ab")
    with lock:
        with writing(folder.parent):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """What is written to the cache ``root``: a failure becomes a DataError that names the mend."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"the cache {root} cannot be written ({one_line(error)}); "
            "set ENTROFLOW_CACHE to a writable folder with room"
        ) from error


def _write(partial: Path, key: str, source: str, split: str, arrays: Arrays) -> None:
    meta = {
        "format": FORMAT,
        "key": key,
        "source": source,
        "split": split,
        "count": len(arrays.labels),
        "shape": list(arrays.images.shape),
        "classes": list(arrays.classes),
        "class_counts": np.bincount(arrays.labels, minlength=len(arrays.classes)).tolist(),
        "fingerprint": fingerprint(arrays.images, arrays.labels),
        "verified": list(arrays.verified),
    }
    if not (partial / "images.npy").exists():
        with _synced(partial / "images.npy") as file:
            np.save(file, arrays.images, allow_pickle=False)
    with _synced(partial / "labels.npy") as file:
        np.save(file, arrays.labels, allow_pickle=False)
    with _synced(partial / "meta.json") as file:
        file.write((json.dumps(meta, indent=1) + "\n").encode())


@contextmanager
def _synced(path: Path) -> Iterator[BinaryIO]:
    # Without the sync a crash of the machine may leave a renamed entry with empty files.
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
