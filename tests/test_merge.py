"""Records of another machine: all checked before one is written, nothing lost, no mixed pairs."""

import json
import os
from contextlib import ExitStack

import foreign
import numpy as np
import pytest
import tiny
from foreign import changed, honest, renamed, save

from reproduce.cells import Cell, expand
from reproduce.errors import RequestError
from reproduce.launchers import plan
from reproduce.merge import merge
from reproduce.records import Store

LRS = (1e-3, 2e-3)
CUDA = "NVIDIA H200"


@pytest.fixture
def target(monkeypatch):
    made = tiny.target(lrs=LRS)
    tiny.register(monkeypatch, made)
    return made


@pytest.fixture
def cells(target):
    return expand(target, "smoke")


@pytest.fixture
def there(tmp_path):
    return tmp_path / "there"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "here", "smoke")


def files(folder) -> dict[str, bytes]:
    """What there is but locks."""
    found = (p for p in folder.rglob("*") if p.is_file() and p.name != "lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def held(store, cell) -> dict:
    return json.loads(store.path(cell).read_text())


def refused(there, store, *words):
    """The merge is refused in one line with these words, and nothing is written."""
    here = files(store.results)
    with pytest.raises(RequestError) as caught:
        merge(there, "smoke", store)
    said = str(caught.value)
    assert said.isprintable()
    for word in words:
        assert word in said, said
    assert files(store.results) == here
    assert store.results.exists() == bool(here)


# ---------------------------------------------------------------------------------------- taking
@pytest.mark.parametrize("given", ["", "smoke", "smoke/records"])
def test_a_folder_s_records_are_taken(given, there, store, cells):
    for cell in cells:
        save(there, honest(cell, device="cpu"))
    assert merge(there / given, "smoke", store) == ["2 taken, 0 kept, 0 skipped at tier smoke"]
    for cell in cells:
        assert held(store, cell) == honest(cell)


def test_what_was_taken_leaves_nothing_to_run(there, store, cells, target):
    for cell in cells:
        save(there, honest(cell))
    merge(there, "smoke", store)
    assert plan([target], "smoke", None, store) == ([], 2)


def test_a_second_merge_changes_nothing(there, store, cells):
    for cell in cells:
        path = save(there, honest(cell, value=1 / 3))
        np.savez(path.with_suffix(".npz"), tiles=np.zeros(3, np.uint8))
    merge(there, "smoke", store)
    once = files(store.results)
    times = {p: p.stat().st_mtime_ns for p in store.root.glob("records/*/*")}
    assert len(times) == 4
    assert merge(there, "smoke", store) == ["0 taken, 2 kept, 0 skipped at tier smoke"]
    assert files(store.results) == once
    assert {p: p.stat().st_mtime_ns for p in store.root.glob("records/*/*")} == times
    assert merge(store.results, "smoke", store)[-1].startswith("0 taken, 2 kept")


OURS = {
    "failed": lambda record: {**record, "status": "failed", "error": "ValueError: no"},
    "without an evaluator": lambda record: changed(record, "metrics", {"fit@1": {}}),
    "of an older evaluator": lambda r: json.loads(json.dumps(r).replace("norm@1", "norm@0")),
    "of an older model": lambda r: json.loads(json.dumps(r).replace("fit@1", "fit@0")),
}


@pytest.mark.parametrize("state", OURS)
def test_theirs_replaces_ours_that_is(state, there, store, cells):
    cell = cells[0]
    save(store.results, OURS[state](honest(cell, targets=["mine"], value=1.0)))
    save(there, honest(cell, targets=["tiny", "theirs"], value=2.0))
    assert merge(there, "smoke", store) == ["1 taken, 0 kept, 0 skipped at tier smoke"]
    assert held(store, cell) == honest(cell, targets=["mine", "theirs", "tiny"], value=2.0)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_record_of_ours_is_set_aside(raw, there, store, cells):
    cell = cells[0]
    save(there, honest(cell))
    path = save(store.results, honest(cell))
    path.write_bytes(raw)
    said = merge(there, "smoke", store)
    assert "set aside" in said[0]
    assert path.name in said[0]
    assert said[-1].startswith("1 taken, 0 kept")
    assert path.with_suffix(".json.1.corrupt").read_bytes() == raw
    assert held(store, cell) == honest(cell)


def test_ours_stays_where_both_are_complete(there, store, cells):
    cell = cells[0]
    save(store.results, honest(cell, targets=["tiny"], value=1.0))
    save(there, honest(cell, targets=["theirs", "tiny"], value=2.0))
    assert merge(there, "smoke", store) == ["0 taken, 1 kept, 0 skipped at tier smoke"]
    assert held(store, cell) == honest(cell, targets=["theirs", "tiny"], value=1.0)


def test_numbers_that_only_ours_has_are_never_lost(there, store, monkeypatch):
    one = tiny.target("one", lrs=(1e-3,))
    two = tiny.target("two", lrs=(1e-3,), evaluators=(tiny.TRACE,))
    tiny.register(monkeypatch, one, two)
    (cell,) = expand(one, "smoke")
    save(store.results, honest(cell, ["one"], (tiny.NORM,), value=1.0))
    save(there, honest(cell, ["two"], (tiny.TRACE,), value=2.0))
    lines = merge(there, "smoke", store)
    assert "norm@1" in lines[0]
    assert "trace@1" in lines[0]
    assert held(store, cell) == honest(cell, ["one", "two"], (tiny.NORM,), value=1.0)
    # one that has both is more than either
    save(there, honest(cell, ["two"], (tiny.NORM, tiny.TRACE), value=2.0))
    assert merge(there, "smoke", store) == ["1 taken, 0 kept, 0 skipped at tier smoke"]
    both = held(store, cell)
    assert both["targets"] == ["one", "two"]
    assert set(both["metrics"]) == {"fit@1", "norm@1", "trace@1"}
    # a failure here cost no number
    save(store.results, {**both, "status": "failed", "error": "ValueError: no"})
    save(there, honest(cell, ["one"], (tiny.NORM,), value=3.0))
    assert merge(there, "smoke", store)[-1].startswith("0 taken, 1 kept")
    assert held(store, cell)["metrics"] == both["metrics"]


def test_a_sidecar_comes_along(there, store, cells):
    path = save(there, honest(cells[0]))
    np.savez_compressed(path.with_suffix(".npz"), tiles=np.arange(9, dtype=np.uint8))
    save(there, honest(cells[1]))
    merge(there, "smoke", store)
    here = store.path(cells[0]).with_suffix(".npz")
    assert here.read_bytes() == path.with_suffix(".npz").read_bytes()
    assert not store.path(cells[1]).with_suffix(".npz").exists()


# ------------------------------------------------------------------------------------- skipping
def test_what_no_target_asks_for_is_skipped_with_a_line(there, store, cells, target):
    save(there, honest(cells[0]))
    other = renamed(changed(honest(cells[1]), "config.model.init_args.lr", 0.5))
    save(there, other)
    lines = merge(there, "smoke", store)
    assert lines == [
        f"skipped {other['cell']}: no target of today asks for it",
        "1 taken, 0 kept, 1 skipped at tier smoke",
    ]
    assert [p.stem for p in store.root.glob("records/*/*.json")] == [cells[0].name]


def test_a_config_under_eight_equal_digits_is_skipped(there, store, cells, monkeypatch):
    ours = honest(cells[0])
    save(there, renamed(changed(ours, "config.model.init_args.lr", 0.5)) | {"cell": ours["cell"]})

    class Same(Cell):
        name = ours["cell"]

    monkeypatch.setattr("reproduce.trust.Cell", Same)
    assert "no target of today" in merge(there, "smoke", store)[0]


@pytest.mark.parametrize("state", OURS)
def test_what_is_not_complete_there_is_skipped_with_a_line(state, there, store, cells):
    save(there, OURS[state](honest(cells[0])))
    lines = merge(there, "smoke", store)
    assert len(lines) == 2
    assert lines[0].startswith(f"skipped {cells[0].name}: it ")
    assert lines[1] == "0 taken, 0 kept, 1 skipped at tier smoke"
    assert not list(store.root.glob("records/*/*.json"))


def test_remains_of_other_programs_are_not_read(there, store, cells):
    path = save(there, honest(cells[0]))
    for name in (f"._{path.name}", f".{path.name}.123", f"{path.stem}.json.1.corrupt", "x.npz"):
        path.with_name(name).write_bytes(b"\0")
    assert merge(there, "smoke", store) == ["1 taken, 0 kept, 0 skipped at tier smoke"]


# ------------------------------------------------------------------------------------- refusing
BAD = {
    "foreign class": lambda r: renamed(
        changed(r, "config.model.init_args.net", {"class_path": "subprocess.Popen"})
    ),
    "nested loader": lambda r: renamed(
        changed(r, "config.trainer.callbacks", [{"x": [{"class_path": "torch.hub.load"}]}])
    ),
    "bare string": lambda r: renamed(changed(r, "config.model.init_args.net", "os.system")),
    "forged hash": lambda r: {**r, "config_sha256": "0" * 64},
    "another name": lambda r: {**r, "cell": "../" + r["cell"]},
    "NaN": lambda r: changed(r, "metrics.norm@1.norm", float("nan")),
    "precision": lambda r: {**r, "precision": "bf16-mixed"},
    "oversized": lambda r: {**r, "more": ["x" * 400] * 15_000},
}


@pytest.mark.parametrize("bad", BAD)
def test_one_bad_record_refuses_them_all(bad, there, store, cells):
    save(there, honest(cells[0]))
    record = BAD[bad](honest(cells[1]))
    path = save(there, record, name=record["cell"].removeprefix("../"))
    refused(there, store, path.name)
    path.unlink()
    assert merge(there, "smoke", store) == ["1 taken, 0 kept, 0 skipped at tier smoke"]


def test_a_truncated_record_refuses_them_all(there, store, cells):
    save(there, honest(cells[0]))
    path = save(there, honest(cells[1]))
    path.write_bytes(path.read_bytes()[:-9])
    refused(there, store, path.name, "not whole JSON")


@pytest.mark.parametrize("orphan", [False, True])
def test_a_sidecar_with_a_pickle_refuses_them_all(orphan, there, store, cells):
    save(there, honest(cells[0]))
    record = honest(cells[1])
    if orphan:  # although its record would only be skipped
        record = renamed(changed(record, "config.model.init_args.lr", 0.5))
    path = save(there, record).with_suffix(".npz")
    np.savez(path, tiles=np.array([{}], object))
    refused(there, store, path.name)


def test_records_of_another_tier_or_none_are_refused(there, store, cells):
    refused(there, store, "no records", str(there))
    save(there, honest(cells[0]))
    with pytest.raises(RequestError, match="no records of tier small"):
        merge(there, "small", Store(store.results, "small"))
    with pytest.raises(RequestError, match="is of tier smoke, not small"):
        merge(there / "smoke", "small", Store(store.results, "small"))


# ---------------------------------------------------------------------------------------- pairs
@pytest.mark.parametrize("theirs", [CUDA, "mps"])
def test_arms_of_one_seed_on_two_kinds_of_device_are_refused(theirs, there, store, cells):
    save(store.results, honest(cells[0], device="cpu"))
    save(there, honest(cells[1], device=theirs))
    kind = "cuda" if theirs == CUDA else theirs
    refused(there, store, "tiny", "seed 1", "cpu", kind)


def test_a_mixed_folder_is_refused(there, store, cells):
    save(there, honest(cells[0], device=CUDA))
    save(there, honest(cells[1]))
    refused(there, store, "tiny", "seed 1", "cpu", "cuda")


def test_seeds_targets_and_failures_are_no_pairs(there, store, monkeypatch):
    one = tiny.target("one", seeds={"smoke": 2})
    two = tiny.target("two", lrs=(3e-3,))
    tiny.register(monkeypatch, one, two)
    first, second, third, fourth = expand(one, "smoke")
    assert (first.seed, third.seed) == (1, 7)
    save(store.results, honest(first))
    save(store.results, honest(second, status="failed", error="x", device=CUDA))
    save(there, honest(third, device=CUDA))
    save(there, honest(fourth, device="NVIDIA A100"))  # another name, the same kind
    save(there, honest(expand(two, "smoke")[0], device="mps"))
    assert merge(there, "smoke", store) == ["3 taken, 0 kept, 0 skipped at tier smoke"]
    # the failed one is no pair of one that comes now
    store.path(first).unlink()
    save(there, honest(first))
    assert merge(there, "smoke", store) == ["1 taken, 3 kept, 0 skipped at tier smoke"]


def test_a_mixture_that_was_there_before_stops_no_one(there, store, cells, monkeypatch):
    for cell, device in zip(cells, ("cpu", CUDA), strict=True):
        save(store.results, honest(cell, device=device))
        save(there, honest(cell, targets=["tiny", "more"], device=device))
    assert merge(there, "smoke", store)[-1].startswith("0 taken, 2 kept")


# ---------------------------------------------------------------------------------------- faults
def test_a_cell_that_is_being_run_stops_the_merge(there, store, cells):
    for cell in cells:
        save(there, honest(cell))
    first, second = sorted(cells, key=lambda c: c.name)
    with ExitStack() as running:
        running.enter_context(store.lock(second))
        with pytest.raises(RequestError, match=f"{second.name} is being run"):
            merge(there, "smoke", store)
        assert held(store, first) == honest(first)
        assert not store.path(second).exists()
    assert merge(there, "smoke", store) == ["1 taken, 1 kept, 0 skipped at tier smoke"]


def test_a_kill_between_two_records_leaves_whole_ones(there, store, cells, monkeypatch):
    for cell in cells:
        path = save(there, honest(cell))
        np.savez(path.with_suffix(".npz"), tiles=np.zeros(3, np.uint8))
    real, calls = os.replace, []

    def dies(a, b):
        calls.append(b)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(a, b)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        merge(there, "smoke", store)
    monkeypatch.setattr(os, "replace", real)
    whole = [p for p in store.root.glob("records/*/*.json")]
    assert len(whole) == 1
    assert foreign.PAPER in str(whole[0])
    assert merge(there, "smoke", store) == ["1 taken, 1 kept, 0 skipped at tier smoke"]
    assert len(files(store.root / "records")) == 4


def test_results_that_cannot_be_written_are_told(there, store, cells):
    save(there, honest(cells[0]))
    store.root.mkdir(parents=True)
    (store.root / "runs").write_text("in the way")
    refused(there, store, "cannot write")
