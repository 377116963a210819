"""The cache of decoded images: built once, whole or absent, rebuilt when damaged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from datamodules import cache
from datamodules.sources import load

import numpy as np
import pytest
from image_files import (
    cold,  # noqa: F401
    encode,
    entries,
    error_of,
    noise,
    overwrite,
    pack,
)

ROOT = Path(__file__).resolve().parents[1]

SLOW = """
import sys, time
from pathlib import Path
from datamodules import image_folders
from datamodules.sources import load

decode = image_folders.decode

def slow(*args):
    with open(sys.argv[1] + "/built", "a") as log:
        log.write("x")
    time.sleep(float(sys.argv[3]))
    return decode(*args)

image_folders.decode = slow
Path(sys.argv[1], "ready" + sys.argv[2]).touch()
while not Path(sys.argv[1], "go").exists():
    time.sleep(0.01)
print(load("image_folder", root=sys.argv[1] + "/set.tar.gz").images.sum())
"""


@pytest.fixture
def archive(tmp_path):
    """Three images in an archive; what their reader prints."""
    pictures = [noise(seed, (4, 4)) for seed in range(3)]
    files = {f"{name}/x.png": encode(p) for name, p in zip("abc", pictures, strict=True)}
    pack(tmp_path / "set.tar.gz", files)
    return f"{sum(int(p.sum()) for p in pictures)}\n"


def slow(tmp_path, name, seconds):
    return subprocess.Popen(
        [sys.executable, "-B", "-c", SLOW, str(tmp_path), name, str(seconds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(*paths):
    end = time.monotonic() + 120
    while not all(path.exists() for path in paths):
        assert time.monotonic() < end, f"never saw {paths}"
        time.sleep(0.01)


def test_two_cold_processes_decode_an_archive_once(tmp_path, archive):
    pair = [slow(tmp_path, name, 0.5) for name in "ab"]
    wait_for(tmp_path / "readya", tmp_path / "readyb")
    (tmp_path / "go").touch()
    for process in pair:
        assert process.communicate(timeout=120) == (archive, "")
    assert (tmp_path / "built").read_text() == "xxx"
    assert len(entries(tmp_path / "cache")) == 1


def test_the_lock_dies_with_its_process(tmp_path, archive):
    (tmp_path / "go").touch()
    dead = slow(tmp_path, "a", 600)
    wait_for(tmp_path / "built")
    dead.send_signal(signal.SIGKILL)
    dead.communicate(timeout=120)
    assert slow(tmp_path, "b", 0).communicate(timeout=120) == (archive, "")
    assert (tmp_path / "built").read_text() == "xxxx"
    assert len(list((tmp_path / "cache").iterdir())) == 2  # the entry and its lock


@pytest.mark.parametrize(
    "damage",
    [
        overwrite("images.npy", lambda b: b[:-1]),
        overwrite("images.npy", lambda b: b + b"\0"),
        overwrite("labels.npy", lambda b: b[:100]),
        overwrite("labels.npy", lambda b: b""),
        overwrite("meta.json", lambda b: b[:50]),
        overwrite("meta.json", lambda b: b"[]"),
        overwrite("meta.json", lambda b: b.replace(b'"count": 297', b'"count": 296')),
        lambda folder: (folder / "images.npy").unlink(),
    ],
)
def test_a_damaged_entry_is_set_aside_and_rebuilt(tmp_path, capfd, damage):
    first = load("digits", "test")
    (folder,) = entries(tmp_path / "cache")
    expected = np.array(first.images), np.array(first.labels)
    del first
    damage(folder)
    second = load("digits", "test")
    np.testing.assert_array_equal(second.images, expected[0])
    np.testing.assert_array_equal(second.labels, expected[1])
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 1
    assert f"{folder}.damaged" in told[0]
    load("digits", "test")
    assert capfd.readouterr().err == ""


def test_a_half_written_entry_of_a_killed_process_is_replaced(tmp_path):
    load("digits", "test")
    (folder,) = entries(tmp_path / "cache")
    folder.rename(f"{folder}.partial")
    load("digits", "test")
    assert entries(tmp_path / "cache") == [folder]


def test_an_unwritable_cache_names_the_mend(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ENTROFLOW_CACHE", str(tmp_path / "file" / "cache"))
    message = error_of("digits")
    assert str(tmp_path / "file" / "cache") in message
    assert "set ENTROFLOW_CACHE" in message


@pytest.mark.parametrize("limit", [50, 9000])
def test_a_full_cache_names_the_mend_and_leaves_nothing(tmp_path, archive, limit):
    code = (
        "import resource, sys\n"
        "from datamodules.sources import DataError, load\n"
        "import PIL.PngImagePlugin, sklearn.datasets\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)\n"
        "for name in sys.argv[2:]:\n"
        "    try:\n"
        "        load(name)\n"
        "    except DataError as error:\n"
        "        print(error)\n"
    )
    names = ["digits", f"image_folder:{tmp_path / 'set.tar.gz'}"][: 2 if limit == 50 else 1]
    told = subprocess.check_output(
        [sys.executable, "-B", "-c", code, str(limit), *names], cwd=ROOT, text=True
    )
    assert len(told.splitlines()) == len(names)
    for line in told.splitlines():
        assert "cannot be written" in line
        assert "set ENTROFLOW_CACHE" in line
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock"}


def test_a_cache_inside_the_checkout_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "checkout" / "datamodules" / "cache.py"))
    monkeypatch.setenv("ENTROFLOW_CACHE", str(tmp_path / "checkout" / "results" / "cache"))
    assert "inside the checkout" in error_of("digits")
    assert not (tmp_path / "checkout").exists()


def test_the_cache_is_in_the_home_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("ENTROFLOW_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_root() == tmp_path / ".cache" / "entroflow"


def test_large_files_are_identified_by_size_time_and_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "WHOLE", 10)
    monkeypatch.setattr(cache, "SAMPLE", 4)
    path = tmp_path / "large"
    seen = set()
    for content, when in ((b"a" * 20, 1), (b"a" * 21, 1), (b"a" * 20, 2), (b"a" * 19 + b"b", 1)):
        path.write_bytes(content)
        os.utime(path, ns=(when, when))
        seen.add(cache.identify([path]))
    assert len(seen) == 4
