"""Where the files of a source lie, and whether they are the published ones."""

from __future__ import annotations

__all__ = ["Hub", "Inputs", "MissingError", "Source", "check_counts", "check_file", "find"]

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.cache import Arrays, DataError, cache_root, one_line

import numpy as np

Inputs = tuple[Path | str, ...]


class MissingError(DataError):
    """No folder has the files of a source."""


@dataclass(frozen=True)
class Hub:
    """A source's copy on the Hugging Face Hub.

    Attributes:
        name: of the repository.
        splits: our name of each split to its name there and its number of images.
    """

    name: str
    splits: Mapping[str, tuple[str, int]]


@dataclass(frozen=True)
class Source:
    """How a data set is found and read.

    Attributes:
        splits: root (or None) to the names of its splits.
        locate: (split, root or None) to the inputs that the cache entry is made from: files and
            folders, or strings that stand for themselves; raises MissingError if there are none.
        read: (split, inputs, folder) to the decoded arrays; raises DataError if an input is
            damaged. A large set writes its images to ``folder``, see ``pixels.PixelFile``.
        hub: where else it is to be had.
        home: the name of the folder with its files, where it is not the source's.
        entry: the name of its cache entries, where it is not the source's.
    """

    splits: Callable[[Path | None], Sequence[str]]
    locate: Callable[[str, Path | None], Inputs]
    read: Callable[[str, Inputs, Path], Arrays]
    hub: Hub | None = None
    home: str | None = None
    entry: str | None = None


def find(
    source: str,
    names: Sequence[Sequence[str]],
    root: Path | None,
    home: str | None = None,
    get: str = "",
) -> Inputs:
    """The files and folders of ``source``, all from the first place that has them all.

    Looked at are ``root``, ``$ENTROFLOW_DATA/<home>``, ``$ENTROFLOW_DATA`` and ``<cache>/<home>``.

    Args:
        names: for each input wanted, the names it may have, the preferred one first; an input that
            serves several is returned once.
        root: a folder that has the inputs, or the only input itself.
        home: the folder's name, where it is not the source's.
        get: how to come by the files, if ``make data`` alone cannot.

    Raises:
        MissingError: if no place has them all; it names files, places and mend.
    """
    data, home = os.environ.get("ENTROFLOW_DATA"), home or source
    folders = [] if root is None else [root]
    if data:
        folders += [Path(data).expanduser() / home, Path(data).expanduser()]
    folders.append(cache_root() / home)
    if root is not None and len(names) == 1 and root.name in names[0] and root.exists():
        return (root,)
    for folder in folders:
        found = [
            [folder / name for name in choice if (folder / name).exists()] for choice in names
        ]
        if all(found):
            return tuple(dict.fromkeys(paths[0] for paths in found))
    wanted = " and ".join(" or ".join(choice) for choice in names)
    command = f"`make data SOURCE={source}`"
    raise MissingError(
        f"{source}: no folder has {wanted}; looked in {', '.join(map(str, folders))}"
        f"{'' if data else ' (ENTROFLOW_DATA is not set)'}; "
        f"{f'{get}, then run {command}' if get else f'get it with {command}'}"
    )


def check_file(
    path: Path, published: Mapping[str, str], content: bytes | None = None
) -> tuple[str, ...]:
    """Compare a file with its published MD5 or SHA-256 (hex, by name); what was verified.

    Args:
        content: the bytes to compare, where ``path`` only names them (a member of an archive).

    Raises:
        DataError: if they differ or the file cannot be read.
    """
    expected = published.get(path.name)
    if expected is None or (content is None and path.is_dir()):
        return ()
    kind = "md5" if len(expected) == 32 else "sha256"
    try:
        if content is None:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, kind).hexdigest()
        else:
            found = hashlib.new(kind, content, usedforsecurity=False).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}") from error
    if found != expected:
        raise DataError(
            f"{path} is not the published file: {kind} {found}, not {expected}; get it again"
        )
    return (f"{kind} of {path.name}",)


def check_counts(
    where: str, labels: np.ndarray, classes: int, expected: tuple[int, int | None]
) -> tuple[str, ...]:
    """Compare the number of images, and of images in each class, with the published ones.

    Args:
        expected: images in all, and in each class (None if classes differ).

    Raises:
        DataError: if they differ.
    """
    total, each = expected
    if len(labels) != total:
        raise DataError(f"{where} has {len(labels):,} images, not {total:,}; get it again")
    counts = np.bincount(labels, minlength=classes)
    if each is not None and (len(counts) != classes or not (counts == each).all()):
        raise DataError(
            f"{where} has {counts.min():,} to {counts.max():,} images a class in {len(counts)} "
            f"classes, not {each:,} in {classes}; get it again"
        )
    return (f"{total:,} images" + (f", {each:,} a class" if each else ""),)
