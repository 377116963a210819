"""Folders and archives read alike: each member's name and content, nothing unpacked to disk.

A folder, ``.zip``, ``.tar``, ``.tar.gz``, ``.tar.bz2`` or ``.tar.xz``, known by its content and
not by its name. Names use ``/``; hidden files are passed over. A member that climbs out of its
archive is refused although nothing would be written there: such an archive was made to do harm. An
archive that is truncated or damaged is an error, wherever the damage is; ``tarfile`` alone takes
much of it for the end.
"""

from __future__ import annotations

__all__ = ["members"]

import bz2
import gzip
import io
import lzma
import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from datamodules.cache import DataError, one_line, visible_files

Member = tuple[str, Callable[[], bytes]]

_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_DAMAGE = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    UnicodeDecodeError,
    NotImplementedError,  # a method of compression that zipfile does not know
    RuntimeError,  # an encrypted member
)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(
            f"{path} is truncated, damaged or no archive ({one_line(error)}); get it again"
        ) from error


def members(path: Path) -> Iterator[Member]:
    """Each regular file in the folder or archive ``path``: its name, and a call for its content.

    Folders, ``.zip`` and plain ``.tar`` come in the order of names. A compressed ``.tar`` comes in
    its own order, as it is read but once from front to end; there the content is to be had only
    until the next name is asked for. A link to another member has a name, but its content is
    refused.

    Raises:
        DataError: if ``path`` is neither, is damaged, or holds a member that climbs out of it; the
            call too raises it if the content is damaged.
    """
    with _damage_named(path):
        if path.is_dir():
            for name, file in visible_files(path):
                yield name, partial(_read, path, file.read_bytes)
            return
        with path.open("rb") as file:
            magic = file.read(6)
            file.seek(0)
            if magic.startswith(b"PK"):
                yield from _zip_members(path, file)
                return
            opener = next((o for head, o in _OPENERS.items() if magic.startswith(head)), None)
            if opener is None:
                yield from _tar_members(path, file)
                return
            with opener(file) as stream:
                yield from _stream_members(path, stream)


def _read(path: Path, read: Callable[..., bytes], *args: object) -> bytes:
    with _damage_named(path):
        return read(*args)


class _Header(tarfile.TarInfo):
    """Tells the end of an archive from a damaged or missing header, which tarfile does not."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


def _tar_members(path: Path, file: io.BufferedIOBase) -> Iterator[Member]:
    with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar:
        named = ((_tar_name(path, member), member) for member in tar)
        for name, member in sorted((pair for pair in named if pair[0]), key=lambda pair: pair[0]):
            yield name, partial(_read, path, _content, path, tar, member)


def _stream_members(path: Path, stream: io.BufferedIOBase) -> Iterator[Member]:
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as tar:
        while (member := tar.next()) is not None:
            if name := _tar_name(path, member):
                yield name, partial(_read, path, _content, path, tar, member)
            tar.members = []  # it would keep them all
        while stream.read(1 << 20):  # to the end, where the checksums are
            pass


def _content(path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if not member.isreg():
        _refuse_link(path, member.name, member.linkname)
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def _tar_name(path: Path, member: tarfile.TarInfo) -> str | None:
    """The name to hand out; None for folders and hidden files."""
    name = _inside(path, member.name)
    if member.issym():  # a symbolic link counts from its own folder, a hard link from the top
        _inside(path, member.name, posixpath.join(posixpath.dirname(member.name), member.linkname))
    elif member.islnk():
        _inside(path, member.name, member.linkname)
    elif not member.isreg() and not member.isdir():
        raise DataError(f"{path}: member {member.name!r} is a device or a pipe: refused")
    return None if member.isdir() else name


def _zip_members(path: Path, file: io.BufferedIOBase) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            name = _inside(path, info.filename)
            if stat.S_ISLNK(info.external_attr >> 16):
                target = archive.read(info).decode()
                parent = posixpath.dirname(info.filename)
                _inside(path, info.filename, posixpath.join(parent, target))
                if name:
                    yield name, partial(_refuse_link, path, name, target)
            elif name and not info.is_dir():
                yield name, partial(_read, path, archive.read, info)


def _refuse_link(path: Path, name: str, target: str) -> bytes:
    raise DataError(
        f"{path}: {name!r} is a link to {target!r}; pack the file itself (tar --dereference)"
    )


def _inside(path: Path, name: str, target: str | None = None) -> str | None:
    """``name`` in its plain form, None if it is hidden; refuses a way out of the archive."""
    clean = posixpath.normpath(name if target is None else target)
    parts = clean.split("/")
    if parts[0] in ("", ".."):
        what = "climbs" if target is None else f"is a link to {target!r}, which leads"
        raise DataError(f"{path}: member {name!r} {what} out of the archive: refused")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return None if hidden else clean
