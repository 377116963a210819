"""Weights of others: verified before they are in place, and then found by who needs them."""

import hashlib
import re
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from datamodules import DataError
from datamodules.cache import cache_root
from lightning_modules.simflow import LPIPS, alignment, losses
from lightning_modules.weights import cached, located

import pytest
import refusals

from reproduce import weights
from reproduce.__main__ import main
from reproduce.evaluators import inception

CONTENT = bytes(range(250)) * 12
SHA256 = hashlib.sha256(CONTENT).hexdigest()
VARIABLE = "ENTROFLOW_TEST_WEIGHTS"


class Server(ThreadingHTTPServer):
    """One file at any address: what it gives, where it breaks off, and what it was asked."""

    daemon_threads = True
    content, stops_after = CONTENT, None

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/some.pth"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        wanted, content = self.headers.get("Range"), self.server.content
        self.server.asked.append(wanted)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.server.stops_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where the file will be; the environment names nothing."""
    monkeypatch.setenv("ENTROFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    for name in (VARIABLE, inception.VARIABLE, losses.VARIABLE, alignment.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "weights"


@pytest.fixture
def one(server, cache, monkeypatch):
    """The only known weights: what the server gives, under their checksum."""

    def make(**changes):
        about = {"name": "some", "what": "Some", "needed_by": "a test", "licence": "none"}
        about |= {"file": "some.pth", "sha256": SHA256, "url": server.url, "variable": VARIABLE}
        made = weights.Weights(**{**about, **changes})
        monkeypatch.setattr(weights, "known", lambda: (made,))
        return made

    make()
    return make


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock")


def refused(*words, name="some"):
    refusals.refused(lambda: list(weights.fetch(name)), *words)


# ------------------------------------------------------------------------------------- fetching
def test_what_was_fetched_is_found(one, server, cache, capsys):
    assert main(["weights", "some"]) == 0
    said = capsys.readouterr().out.splitlines()
    path = cache / "some.pth"
    assert said == [
        f"some: fetching {server.url} to {path}",
        f"some: fetched 3,000 bytes, and their sha256 is right: {path}",
    ]
    assert path.read_bytes() == CONTENT
    assert names(cache) == ["some.pth"]
    assert located(VARIABLE, "some.pth") == path
    assert list(weights.fetch("some")) == [f"some: found, and its sha256 is right: {path}"]
    assert server.asked == [None]


def test_another_content_is_never_in_place(one, server, cache):
    server.content = CONTENT[:-1] + b"?"
    refused("is not some.pth", "nothing was kept", SHA256[:12])
    assert names(cache) == []


def test_a_damaged_copy_is_replaced(one, server, cache):
    cache.mkdir(parents=True)
    (cache / "some.pth").write_bytes(b"damaged")
    list(weights.fetch("some"))
    assert (cache / "some.pth").read_bytes() == CONTENT


def test_what_broke_off_is_taken_up(one, server, cache):
    server.stops_after = 1000
    refused("broke off after 1,000 of 3,000 bytes: `make weights NAME=some` goes on")
    assert names(cache) == ["some.pth.partial"]
    server.stops_after = None
    list(weights.fetch("some"))
    assert server.asked == [None, "bytes=1000-"]
    assert (cache / "some.pth").read_bytes() == CONTENT
    assert names(cache) == ["some.pth"]


def test_what_was_whole_but_not_yet_in_place(one, server, cache):
    cache.mkdir(parents=True)
    (cache / "some.pth.partial").write_bytes(CONTENT)
    list(weights.fetch("some"))
    assert (cache / "some.pth").read_bytes() == CONTENT
    (cache / "some.pth").unlink()
    (cache / "some.pth.partial").write_bytes(CONTENT[::-1])
    refused("nothing was kept")
    assert names(cache) == []


def test_without_a_network_the_file_can_be_brought(one, server, cache):
    one(url="http://127.0.0.1:9/some.pth")
    refused("cannot be fetched", "NAME=some", f"set {VARIABLE} to a copy of some.pth")
    assert names(cache) == []


def test_without_room_nothing_is_written(one, cache, monkeypatch):
    few = shutil.disk_usage("/")._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: few)
    refused("has 3,000 bytes", "room for 100; set ENTROFLOW_CACHE")
    assert names(cache) == []


def test_what_cannot_be_verified_is_not_asked_for(one, server, tmp_path, monkeypatch):
    one(sha256="")
    refused("no checksum of it is known", server.url)
    refused("unknown weights 'other': choose one of some", name="other")
    one(variable="", place=tmp_path / "absent.pth", url="a package")
    refused("absent.pth: No such file", "comes with a package")
    one()
    (tmp_path / "own.pth").write_bytes(b"own")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "own.pth"))
    refused(f"{VARIABLE} goes before the cache", "own.pth is another file", "unset it")
    assert server.asked == []


def test_a_cache_in_the_checkout_is_one_line(one, server, monkeypatch, capsys):
    inside = Path(weights.__file__).parents[1] / "results" / "cache"
    monkeypatch.setenv("ENTROFLOW_CACHE", str(inside))
    assert main(["weights", "some"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "lies inside the checkout" in line
    assert server.asked == []
    assert not inside.exists()


# -------------------------------------------------------------------------------------- looking
def test_the_list_tells_what_is_here(cache, capsys):
    cache.mkdir(parents=True)
    (cache / losses.FILE).write_bytes(b"another")
    assert main(["weights"]) == 0
    blocks = [block.splitlines() for block in capsys.readouterr().out.split("\n\n")]
    told = {b[0].split(":")[0]: dict(line.split(maxsplit=1) for line in b[2:]) for b in blocks}
    assert list(told) == ["inception", "vgg16", "lpips", "dinov2", "tarflow", "starflow"]
    for name in ("inception", "vgg16", "lpips", "dinov2"):
        assert re.fullmatch(r"[0-9a-f]{64}", told[name]["sha256"])
    for name in ("tarflow", "starflow"):
        assert told[name]["sha256"] == "not known to us, so it is not fetched"
    assert told["inception"]["here"] == "no; make weights NAME=inception fetches it"
    assert told["vgg16"]["here"].startswith(f"{cache / losses.FILE} is another file")
    assert told["lpips"]["here"].startswith("yes, and its sha256 is right: ")
    assert told["dinov2"]["variable"] == "ENTROFLOW_DINOV2"


def test_checksums_are_those_that_the_loaders_want():
    known = {one.name: one for one in weights.known()}
    assert known["inception"].sha256[:8] in known["inception"].file
    assert known["vgg16"].sha256[:8] in known["vgg16"].file
    assert known["vgg16"].sha256.startswith(LPIPS().backbone_sha256)
    assert known["lpips"].sha256.startswith(LPIPS().heads_sha256)
    for name in ("inception", "vgg16", "dinov2"):
        assert known[name].url.startswith("https://")
        assert known[name].url.endswith(f"/{known[name].file}")


# -------------------------------------------------------------------------------------- finding
def test_two_floors_know_one_cache(cache, monkeypatch, tmp_path):
    assert cached("a") == cache_root() / "weights" / "a" == cache / "a"
    monkeypatch.delenv("ENTROFLOW_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cached("a") == cache_root() / "weights" / "a"


def test_the_environment_goes_before_the_cache(cache, monkeypatch):
    assert located(VARIABLE, "a") is None
    cache.mkdir(parents=True)
    (cache / "a").touch()
    assert located(VARIABLE, "a") == cache / "a"
    monkeypatch.setenv(VARIABLE, "/nowhere/b")
    assert located(VARIABLE, "a") == Path("/nowhere/b")


def test_loaders_look_into_the_cache(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(DataError, match=r"not downloaded: .*make weights NAME=inception"):
        inception.weights()
    with pytest.raises(ValueError, match=r"not downloaded: .*make weights NAME=vgg16"):
        LPIPS().load()
    with pytest.raises(ValueError, match=r"not downloaded: .*make weights NAME=dinov2"):
        alignment.dinov2_teacher(4)
    cache.mkdir(parents=True)
    for name in (inception.FILE, losses.FILE, alignment.FILE):
        (cache / name).write_bytes(CONTENT)
    with pytest.raises(DataError, match=rf"{inception.FILE} is another file than"):
        inception.weights()
    monkeypatch.setattr(inception, "SHA256", SHA256)
    assert inception.weights() == cache / inception.FILE
    with pytest.raises(ValueError, match=rf"{cache / losses.FILE} is another file"):
        LPIPS().load()
    with pytest.raises(ValueError, match="needs timm"):  # it has found the file
        alignment.dinov2_teacher(4)
