"""Files of a source brought into the cache: whole or absent, and equal to what was copied."""

from __future__ import annotations

__all__ = ["copy_inputs"]

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from datamodules.cache import DataError, cache_root, one_line, visible_files, writing
from datamodules.pixels import Progress

BLOCK = 1 << 20


def copy_inputs(
    source: str, paths: Sequence[Path], home: Path, root: Path | None = None
) -> list[str]:
    """Copy files and folders to ``home`` that lie neither there nor in ``root``.

    Each appears by rename once its SHA-256 is that of the original. A copy that was broken off
    goes on where it stopped.

    Returns:
        a line on each path: where it was found, or from where to where it was copied.

    Raises:
        DataError: if there is no room, or a file cannot be read or written.
    """
    lines = []
    for path in paths:
        target = home / path.name
        here = root is not None and path.is_relative_to(root)
        size = sum(size for _, size, _ in _stamps(path))
        if here or _stamps(path) == _stamps(target):
            place = path.parent if here else home
            lines.append(f"{source}: found {path.name} ({size:,} bytes) in {place}")
            continue
        partial = target.with_name(f"{target.name}.partial")
        done = sum(size for _, size, _ in _stamps(partial))
        with writing(cache_root()):
            home.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(home).free
        if free < size - done:
            raise DataError(
                f"{source}: {path} has {size:,} bytes, but {home} has room for {free:,}; "
                "set ENTROFLOW_CACHE to a folder with more"
            )
        _copy(path, partial)
        with writing(cache_root()):
            if target.is_dir():
                shutil.rmtree(target)
            partial.replace(target)
        lines.append(
            f"{source}: copied {path.name} ({size:,} bytes) from {path.parent} to {home}; "
            "both compared by SHA-256"
        )
    return lines


def _stamps(path: Path) -> list[tuple[str, int, int]]:
    """(name, bytes, time of change) of a file, or of each in a folder; none if there is none."""
    files = visible_files(path) if path.is_dir() else [("", path)] if path.exists() else []
    return [(name, file.stat().st_size, file.stat().st_mtime_ns) for name, file in files]


def _copy(path: Path, partial: Path) -> None:
    progress = Progress(f"copying {path}")
    if not path.is_dir():
        _copy_file(path, partial, progress)
        return
    for name, file in visible_files(path):
        target = partial / name
        before, after = file.stat(), target.stat() if target.exists() else None
        # only a copy that was compared has the original's time
        if after and (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns):
            continue
        with writing(cache_root()):
            target.parent.mkdir(parents=True, exist_ok=True)
        _copy_file(file, target, progress)


def _copy_file(path: Path, partial: Path, progress: Progress) -> None:
    try:
        source = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}") from error
    with source:
        with writing(cache_root()):
            if partial.exists() and partial.stat().st_size > path.stat().st_size:
                partial.unlink()
        with writing(cache_root()), partial.open("ab") as out:
            source.seek(out.tell())
            while block := source.read(BLOCK):
                out.write(block)
                progress(f"{out.tell():,} bytes")
            out.flush()
            os.fsync(out.fileno())
        source.seek(0)
        with partial.open("rb") as copy:
            equal = _digest(copy) == _digest(source)
    if not equal:
        partial.unlink()
        raise DataError(f"{path} and its copy differ: it has changed; run the same command again")
    status = path.stat()
    with writing(cache_root()):
        os.utime(partial, ns=(status.st_atime_ns, status.st_mtime_ns))


def _digest(file) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()
