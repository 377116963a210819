"""Folders and archives: the same members from each, and nothing from those that do harm."""

from __future__ import annotations

import gzip
import io
import random
import stat
import tarfile
import zipfile

from datamodules.archives import members
from datamodules.cache import DataError

import pytest
from image_files import pack

KINDS = ("folder", "set.tar", "set.tar.gz", "set.tar.bz2", "set.tar.xz", "set.zip")
FILES = {
    "b/2.bin": bytes(range(256)) * 40,
    "b/1.bin": b"one",
    "a/3.bin": b"",
    "c/.hidden": b"no",
    "__MACOSX/c/._x": b"no",
    ".git/config": b"no",
}
VISIBLE = {name: data for name, data in FILES.items() if name[0] in "ab"}


def read(path):
    return {name: content() for name, content in members(path)}


def refused(path) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def tar(path, *made, data=b"x"):
    """A tar of members that ``pack`` would not write: (name, fields of its header)."""
    mode = "w:" if path.suffix == ".tar" else f"w:{path.suffix[1:]}"
    with tarfile.open(path, mode) as archive:
        for name, fields in made:
            member = tarfile.TarInfo(name)
            vars_ = {"size": len(data), **fields}
            for key, value in vars_.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(data[: member.size]))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_members(tmp_path, kind):
    path = pack(tmp_path / kind, FILES if kind != "folder" else VISIBLE | {"c/.hidden": b"no"})
    assert read(path) == VISIBLE
    before = sorted(tmp_path.rglob("*"))
    list(members(path))
    assert sorted(tmp_path.rglob("*")) == before  # nothing is unpacked


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_says_nothing_about_the_kind(tmp_path, kind):
    path = pack(tmp_path / kind, VISIBLE).rename(tmp_path / "archive")
    assert read(path) == VISIBLE


def test_order_is_by_name_where_the_archive_can_seek(tmp_path):
    for kind in KINDS:
        names = [name for name, _ in members(pack(tmp_path / kind, VISIBLE))]
        ordered = kind in ("folder", "set.tar", "set.zip")
        assert names == (sorted(VISIBLE) if ordered else list(VISIBLE))


def test_names_are_in_plain_form(tmp_path):
    made = (("./x/./y", {}), ("x", {"type": tarfile.DIRTYPE, "size": 0}), ("x/../z", {}))
    assert set(read(tar(tmp_path / "a.tar", *made))) == {"x/y", "z"}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.xz"])
@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("../evil", {}, "'../evil' climbs out of the archive"),
        ("a/../../evil", {}, "'a/../../evil' climbs out"),
        ("/etc/evil", {}, "'/etc/evil' climbs out"),
        ("..", {"type": tarfile.DIRTYPE, "size": 0}, "'..' climbs out"),
        ("a/l", {"type": tarfile.SYMTYPE, "linkname": "../../x", "size": 0}, "link to '"),
        ("a/l", {"type": tarfile.SYMTYPE, "linkname": "/etc/x", "size": 0}, "'/etc/x'"),
        ("a/l", {"type": tarfile.LNKTYPE, "linkname": "../x", "size": 0}, "leads out of"),
        ("a/l", {"type": tarfile.LNKTYPE, "linkname": "/etc/x", "size": 0}, "leads out of"),
        ("../l", {"type": tarfile.SYMTYPE, "linkname": "a", "size": 0}, "'../l' climbs out"),
        ("a/d", {"type": tarfile.CHRTYPE, "size": 0}, "'a/d' is a device or a pipe"),
        ("a/p", {"type": tarfile.FIFOTYPE, "size": 0}, "'a/p' is a device or a pipe"),
    ],
)
def test_a_tar_member_that_leads_out_is_refused(tmp_path, suffix, name, fields, said):
    message = refused(tar(tmp_path / f"a{suffix}", ("a/fine", {}), (name, fields)))
    assert said in message
    assert message.endswith(": refused")


def test_a_link_within_the_archive_has_a_name_but_no_content(tmp_path):
    link = {"type": tarfile.SYMTYPE, "linkname": "../a/x", "size": 0}
    for suffix in (".tar", ".tar.gz"):
        path = tar(tmp_path / f"a{suffix}", ("a/x", {}), ("b/x", link))
        assert sorted(name for name, _ in members(path)) == ["a/x", "b/x"]
        assert "'b/x' is a link to '../a/x'; pack the file itself" in refused(path)


@pytest.mark.parametrize(
    ("name", "target", "said"),
    [
        ("../evil", None, "climbs out"),
        ("/evil", None, "climbs out"),
        ("a/l", "../../x", "leads out of the archive"),
        ("a/l", "x", "pack the file itself"),
    ],
)
def test_a_zip_member_that_leads_out_is_refused(tmp_path, name, target, said):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = ((stat.S_IFLNK if target else stat.S_IFREG) | 0o644) << 16
        archive.writestr(info, target or "x")
    assert said in refused(tmp_path / "a.zip")


@pytest.mark.parametrize("kind", KINDS[1:])
def test_an_archive_cut_anywhere_is_an_error(tmp_path, kind):
    rng = random.Random(0).randbytes(3000)
    whole = pack(tmp_path / "whole" / kind, {"a": rng, "b": rng[::-1], "c": b""}).read_bytes()
    end = whole.rstrip(b"\0") if kind == "set.tar" else whole
    cuts = {0, 1, 5, 512, 700, 3584, 4096, len(end) // 2, len(end) - 1}
    for cut in sorted(cut for cut in cuts if cut < len(end)):
        path = tmp_path / f"{cut}-{kind}"
        path.write_bytes(whole[:cut])
        assert "is truncated, damaged or no archive" in refused(path), cut


@pytest.mark.parametrize("kind", ["set.tar.gz", "set.tar.bz2", "set.tar.xz", "set.zip"])
def test_a_flipped_bit_is_an_error(tmp_path, kind):
    path = pack(tmp_path / kind, {"a": random.Random(0).randbytes(3000)})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "is truncated, damaged or no archive" in refused(path)


def test_a_header_damaged_in_the_middle_is_not_taken_for_the_end(tmp_path):
    path = pack(tmp_path / "a.tar", {"a": b"x", "b": b"y"})
    data = bytearray(path.read_bytes())
    data[1024 + 150] ^= 1  # the checksum of the second header
    path.write_bytes(data)
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["a"]  # what we guard against
    assert "is truncated, damaged or no archive" in refused(path)
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(gzip.compress(data))
    assert "is truncated, damaged or no archive" in refused(packed)


def test_what_is_no_archive_or_not_there_is_named(tmp_path):
    (tmp_path / "note").write_text("hello " * 200)
    assert "no archive" in refused(tmp_path / "note")
    assert "No such file" in refused(tmp_path / "nothing")
