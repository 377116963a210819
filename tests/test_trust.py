"""Records from elsewhere: under their own name, plain and finite; sidecars without pickles."""

import io
import math
import os
import zipfile

import numpy as np
import pytest
import refusals
import tiny
from foreign import changed, honest, save

from reproduce.cells import expand
from reproduce.errors import RequestError
from reproduce.trust import device_kind, read, read_sidecar


@pytest.fixture
def record():
    return honest(expand(tiny.target(), "smoke")[0])


def refused(path, *words, tier="smoke", reader=read):
    said = refusals.refused(
        lambda: reader(path, tier) if reader is read else reader(path), path.name, *words
    )
    assert len(said) < 1000


# ------------------------------------------------------------------------------------- accepted
def test_an_honest_record_is_read_with_its_cell(record, tmp_path):
    cell, found = read(save(tmp_path, record), "smoke")
    assert found == record
    assert cell.name == record["cell"]
    assert cell.sha256 == record["config_sha256"]
    assert (cell.paper, cell.tier, cell.seed) == ("neural-entropy", "smoke", 1)


def test_published_records_may_be_used():
    for path in sorted(tiny.ROOT.glob("results/*/records/*/*.json")):
        read(path, path.parents[2].name)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("metrics.norm@1.norm", None),
        ("metrics.norm@1.norm", True),
        ("curves.norm@1.some", [[1.0, None], [2, 3], [4, 5]]),
        ("device", "NVIDIA H200"),
        ("processor", "AMD EPYC, AVX512"),
        ("git_sha", None),
        ("dirty", None),
        ("a_key_of_tomorrow", {"x": ["y", 1.0]}),
        ("error", "ValueError: no"),
    ],
    ids=repr,
)
def test_what_a_record_may_hold(record, tmp_path, key, value):
    read(save(tmp_path, changed(record, key, value)), "smoke")


@pytest.mark.parametrize(
    ("device", "kind"), [("cpu", "cpu"), ("mps", "mps"), ("NVIDIA H200", "cuda")]
)
def test_kinds_of_device(device, kind):
    assert device_kind({"device": device}) == kind


# ---------------------------------------------------------------------------------------- names
def test_a_forged_hash_is_refused(record, tmp_path):
    refused(save(tmp_path, {**record, "config_sha256": "0" * 64}), "config_sha256")
    other = changed(record, "config.model.init_args.lr", 0.5)
    refused(save(tmp_path, other), "config_sha256")
    # a true beginning, as the name carries it, is not enough
    forged = record["config_sha256"][:8] + "0" * 56
    refused(save(tmp_path, {**record, "config_sha256": forged}), "config_sha256")


@pytest.mark.parametrize(
    "name", ["../../../d3-vp-s1-{}", "/d3-vp-s1-{}", "d3-vp-s2-{}", "{}", "", "d3-vp-s1-{}\n"]
)
def test_a_cell_under_another_name_is_refused(record, tmp_path, name):
    name = name.format(record["config_sha256"][:8])
    refused(save(tmp_path, {**record, "cell": name}, name="d3-vp-s1-12345678"))
    refused(save(tmp_path, {**record, "cell": name}, name=record["cell"]))


def test_a_file_under_another_name_is_refused(record, tmp_path):
    refused(save(tmp_path, record, name="d3-vp-s1-12345678"), record["cell"])
    evil = save(tmp_path, record, name="d3\n\x1b[2J-12345678")
    with pytest.raises(RequestError) as caught:
        read(evil, "smoke")
    assert str(caught.value).isprintable()


def test_another_tier_seed_paper_or_precision_is_refused(record, tmp_path):
    path = save(tmp_path, record)
    refused(path, "smoke", "small", tier="small")
    refused(save(tmp_path, {**record, "seed": 7}), "seed")
    refused(save(tmp_path, {**record, "seed": True}), "seed")
    refused(save(tmp_path, {**record, "precision": "bf16-mixed"}), "precision")
    elsewhere = path.parent.with_name("no-paper") / path.name
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(path.read_bytes())
    refused(elsewhere, "folder")


# -------------------------------------------------------------------------------------- content
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("status", "stale"),
        ("metrics.norm@1.norm", math.nan),
        ("metrics.norm@1.norm", -math.inf),
        ("metrics.norm@1.norm", 10**400),
        ("metrics.norm@1.norm", "1.5"),
        ("metrics.norm@1.norm", [1.5]),
        ("metrics.norm@1", []),
        ("metrics.norm", {}),
        ("metrics.norm@x", {}),
        ("curves.norm@1.norm", [1.0, math.nan, 2.0]),
        ("curves.norm@1.norm", [1.0, 2.0]),
        ("curves.norm@1.norm", [1.0, 2.0, "x"]),
        ("curves.norm@1.norm", 1.0),
        ("curves.norm@1.updates", None),
        ("curves.norm@1.updates", [4, None, 12]),
        ("curves.norm@1", {"norm": [1.0]}),
        ("curves.norm@2", [1.0]),
        ("config.model.init_args.lr", math.nan),
        ("params", -1),
        ("params", 1.5),
        ("params", None),
        ("wall_s", "1"),
        ("wall_s", -1.0),
        ("peak_mem_mb", None),
        ("dirty", "no"),
        ("device", ""),
        ("device", None),
        ("device", "cpu\n| forged | row |"),
        ("device", "\x1b[2J"),
        ("device", "x" * 101),
        ("processor", ""),
        ("processor", None),
        ("error", "two\nlines"),
        ("error", "x" * 10_001),
        ("error", ["x"]),
        ("a_key_of_tomorrow", "x" * 501),
        ("packages.torch", 2),
        ("packages.torch", "2\u202e11"),
        ("packages.x\ny", "1"),
        ("targets", [1]),
        ("targets", ["a\tb"]),
        ("utc", 7),
        ("data_sha256", 7),
        ("git_sha", []),
        ("surprise", [["\ud800"]]),
    ],
    ids=ascii,
)
def test_what_is_no_measurement_is_refused(record, tmp_path, key, value):
    refused(save(tmp_path, changed(record, key, value)))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"status": "done"}',
        b"[" * 100_000,
        b'{"a": ' * 100_000,
        b"1" * 5000,
        b'"' + b"x" * 5_000_001 + b'"',
    ],
    ids=["empty", "half", "list", "no text", "keys", "deep", "deeper", "number", "large"],
)
def test_a_file_that_is_no_record_is_refused(raw, record, tmp_path):
    path = save(tmp_path, record)
    path.write_bytes(raw)
    refused(path)


def test_a_large_or_deep_record_is_refused(record, tmp_path):
    curve = {"updates": [1], "x": [[0.123456789] * 500_000]}
    refused(save(tmp_path, changed(record, "curves.norm@1", curve)), "5 MB")
    node: list = []
    for _ in range(30):
        node = [node]
    refused(save(tmp_path, changed(record, "curves.norm@1.x", [node] * 3)), "nested")


def test_what_is_no_file_is_refused(record, tmp_path):
    path = save(tmp_path, record)
    path.unlink()
    refused(path)
    os.mkfifo(path)  # to open it would wait for ever
    refused(path)
    path.unlink()
    path.mkdir()
    refused(path)


# ------------------------------------------------------------------------------------- sidecars
def npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def archive(**members) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(name.replace("_npy", ".npy"), content)
    return file.getvalue()


def npy(array, **options) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark) -> None:
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def test_a_sidecar_of_numbers_is_read(tmp_path):
    path = tmp_path / "a.npz"
    assert read_sidecar(path) is None
    path.write_bytes(npz(tiles=np.zeros((4, 8, 8), np.uint8), curve=np.ones(3), ok=np.array(True)))
    assert read_sidecar(path) == path.read_bytes()


def test_a_sidecar_with_a_pickle_is_refused_unopened(tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "a.npz"
    objects = np.empty(1, object)
    objects[0] = Bomb(mark)
    hidden = npy(objects, allow_pickle=True)
    for content in (
        npz(tiles=objects),
        npz(fine=np.ones(3), tiles=objects),
        archive(a_npy=hidden),
        archive(a=hidden),
        hidden,
        objects.dumps(),
    ):
        path.write_bytes(content)
        refused(path, reader=read_sidecar)
        assert not mark.exists()
    np.load(io.BytesIO(hidden), allow_pickle=True)
    assert mark.exists()  # opened freely, it would have run


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        npz(a=np.ones(3))[:-30],
        npz(a=np.array(["text"])),
        npz(a=np.zeros(2, [("x", float)])),
        npz(a=np.zeros(25_000_000, np.uint8)),
        npz(a=np.random.default_rng(0).integers(0, 255, 210_000, np.uint8)),
        archive(a="text"),
        archive(a_npy=npy(np.ones(100))[:-50]),
        npy(np.ones(100)),
    ],
    ids="empty other half text struct bomb large member short bare".split(),
)
def test_what_is_no_sidecar_is_refused(content, tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    refused(path, reader=read_sidecar)
