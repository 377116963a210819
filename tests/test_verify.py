"""Verify: one cell made again from its record, every number compared, nothing kept."""

import dataclasses
import shutil
import tempfile

import pytest
import tiny
import torch
from foreign import changed, honest, renamed, save
from refusals import refused

from reproduce import papers, runner
from reproduce import verify as module
from reproduce.cells import Cell, expand
from reproduce.merge import merge
from reproduce.records import Store, fail
from reproduce.target import Evaluator
from reproduce.verify import LAX, RTOL, verify

BOTH = (tiny.NORM, tiny.TRACE)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The record of a tiny cell, really trained and measured."""
    (cell,) = expand(tiny.target(lrs=(1e-3,)), "smoke")
    store = Store(tmp_path_factory.mktemp("made"), "smoke")
    assert runner.run_cell(cell, BOTH, ["tiny"], store, lambda message: None) == "done"
    return store.read(cell)


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where scratch folders would be."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results", "smoke")


@pytest.fixture
def again(store, scratch, monkeypatch):
    """Verify a target against these records; nothing may be left anywhere."""

    def go(*records, target=None, known=(), **options):
        target = target or tiny.target(lrs=(1e-3,), evaluators=BOTH)
        tiny.register(monkeypatch, target, *known)
        shutil.rmtree(store.results, ignore_errors=True)
        for record in records:
            save(store.results, record)
        before = {p: p.read_bytes() for p in store.results.rglob("*") if p.is_file()}
        try:
            return verify(target, "smoke", store, **options)
        finally:
            assert not list(scratch.iterdir())
            after = {p: p.read_bytes() for p in store.results.rglob("*") if p.is_file()}
            assert after == before

    return go


@pytest.fixture
def no_run(monkeypatch):
    def refuse(*_):
        raise AssertionError("this must not run")

    monkeypatch.setattr(runner, "run_cell", refuse)


@pytest.fixture
def instead(monkeypatch):
    """Take this record for what the new run gave; count the runs."""

    def use(record):
        seen = []

        def pretends(cell, evaluators, targets, store, send):
            seen.append((cell, evaluators, torch.get_num_threads()))
            store.write(cell, record)
            return record["status"]

        monkeypatch.setattr(runner, "run_cell", pretends)
        return seen

    return use


# ---------------------------------------------------------------------------------- end to end
def test_a_cell_made_again_is_verified(again, made, store):
    result = again(made)
    assert result.same
    text = "\n".join(result.lines)
    assert made["cell"] in result.lines[0]
    numbers = len(module._numbers(made, list(made["metrics"])))
    assert f"fit@1, norm@1, trace@1: {numbers} numbers, {numbers} equal to nine digits" in text
    assert f"tolerance {RTOL:g}" in text
    assert f"params {made['params']} and data {made['data_sha256'][:12]} are equal" in text
    assert f"wall time {made['wall_s']:.1f} s then" in text
    assert f"commit {(made['git_sha'] or 'unknown')[:12]}" in text
    assert "largest" not in text
    assert result.lines[-1] == "verified"


def test_a_tampered_metric_is_found(again, made):
    value = made["metrics"]["norm@1"]["norm"]
    result = again(changed(made, "metrics.norm@1.norm", value * 1.01))
    assert not result.same
    assert "1 different" in result.lines[1]
    assert "largest relative difference 0.0099: norm of norm@1 (metrics)" in result.lines[2]
    assert f"{value:.9g} now" in result.lines[2]
    assert result.lines[-1] == "differs"


def test_a_merged_record_is_verified_from_its_own_config(again, made, store, tmp_path):
    there = tmp_path / "there"
    save(there, made)
    again(made)  # registers the target
    shutil.rmtree(store.results)
    assert merge(there, "smoke", store) == ["1 taken, 0 kept, 0 skipped at tier smoke"]
    (target,) = papers.targets().values()
    assert verify(target, "smoke", store).same


def test_an_interrupted_run_leaves_nothing(again, made, monkeypatch):
    def stops(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_train", stops)
    with pytest.raises(KeyboardInterrupt):
        again(made)


def test_what_fails_today_differs(again, made):
    broken = (dataclasses.replace(tiny.NORM, call="tiny:broken"),)
    result = again(made, target=tiny.target(lrs=(1e-3,), evaluators=broken))
    assert not result.same
    assert result.lines[1:] == ("it failed: ValueError: this evaluator is broken", "differs")


# ----------------------------------------------------------------------------------- comparison
OTHER = {
    "metrics.norm@1.norm": 1.1,
    "curves.norm@1.sum": [1.5, 1.5, 1.6],
    "curves.norm@1.updates": [4, 8, 13],
    "curves.fit@1.loss": [None],
    "metrics.fit@1.train_loss": None,
    "metrics.norm@1.more": 1.0,
    "curves.norm@1.more_s": [1.0, 1.0, 1.0],  # diffusion time is called s
    "curves.norm@1.peak": [1.0, 1.0, 1.0],
    "params": 8,
    "data_sha256": "2" * 64,
}


@pytest.fixture
def plain():
    return honest(expand(tiny.target(lrs=(1e-3,)), "smoke")[0])


@pytest.mark.parametrize("key", OTHER)
@pytest.mark.parametrize("side", ["then", "now"])
def test_any_other_number_differs(side, key, again, plain, instead):
    other = changed(plain, key, OTHER[key])
    old, new = (other, plain) if side == "then" else (plain, other)
    instead(new)
    result = again(old)
    assert not result.same
    name = key.split(".")[-1]
    assert any(name in line for line in result.lines)
    instead(old)
    assert again(old).same


@pytest.mark.parametrize(
    "name", ["wall_s", "step_time_s", "images_per_s", "forward_ms", "peak_mem_mb", "cost"]
)
def test_clocks_and_memory_are_not_compared(name, again, plain, instead):
    old = changed(plain, f"metrics.norm@1.{name}", 1.0)
    instead(changed(plain, f"metrics.norm@1.{name}", 2.0))
    target = tiny.target(lrs=(1e-3,), metrics={"norm": "", "cost": "ms"})
    result = again(old, target=target)
    assert result.same
    assert "1 timings not compared" in result.lines[1]


@pytest.mark.parametrize(
    ("change", "gap", "rtol", "same"),
    [
        ({}, 9e-7, None, True),
        ({}, 1.1e-6, None, False),
        ({}, 9e-7, 1e-7, False),
        ({}, 9e-7, 0.0, False),
        ({}, 0.0, 0.0, True),
        ({}, 1e-2, 0.1, True),
        ({"packages": {"torch": "2.12.0", "numpy": "2.0.0"}}, 9e-4, None, True),
        ({"packages": {"torch": "2.11.0", "numpy": "2.1.0"}}, 9e-4, None, True),
        ({"packages": {"torch": "2.12.0"}}, 1.1e-3, None, False),
        ({"packages": {"torch": "2.12.0"}}, 9e-4, 1e-6, False),
        ({"device": "NVIDIA H200"}, 9e-4, None, True),
        ({"processor": "another, AVX2"}, 9e-4, None, True),
        ({"processor": "another, AVX2"}, 1.1e-3, None, False),
        ({"packages": {"torch": "2.11.0", "numpy": "2.0.0", "scipy": "1"}}, 9e-4, None, False),
    ],
)
def test_the_tolerance_is_stated(change, gap, rtol, same, again, plain, instead):
    instead(changed(plain, "metrics.norm@1.norm", 1.5 * (1 + gap)) | change)
    result = again(plain, rtol=rtol)
    assert result.same is same
    moves_digits = bool(change) and "scipy" not in str(change)
    stated = rtol if rtol is not None else LAX if moves_digits else RTOL
    assert any(line.startswith(f"tolerance {stated:g}: ") for line in result.lines)
    assert any("make repeat" in line for line in result.lines) is (not same and moves_digits)
    if same and gap:
        assert "0 different" in result.lines[1]
        assert "1 within" in result.lines[1]


def test_what_changed_is_stated(again, plain, instead):
    instead(plain | {"device": "NVIDIA H200", "packages": {"torch": "2.12.0"}, "dirty": True})
    text = "\n".join(again(plain).lines)
    assert "device cpu then, cuda now" in text
    assert "torch 2.11.0 then, 2.12.0 now" in text
    assert "numpy 2.0.0 then, unknown now" in text
    assert f"commit {'0' * 12} then, {'0' * 12} with changes now" in text


def test_rounding_where_terms_cancel_is_no_difference(again, plain, instead):
    instead(changed(plain, "metrics.norm@1.norm", -3e-16))
    assert again(changed(plain, "metrics.norm@1.norm", 1e-15)).same
    assert not again(changed(plain, "metrics.norm@1.norm", 1e-11)).same


@pytest.mark.parametrize("rtol", [-1.0, 1.0, float("nan")])
def test_an_impossible_tolerance_is_refused(rtol, again, plain, no_run):
    refused(lambda: again(plain, rtol=rtol), "--rtol")


# --------------------------------------------------------------------------------- what is run
def test_the_cheapest_cell_that_is_done_is_run(again, instead):
    target = tiny.target(lrs=(1e-3, 2e-3, 3e-3))
    cells = zip(expand(target, "smoke"), (3.0, 2.0, 1.0), strict=True)
    slow, cheap, failed = (honest(cell, wall_s=wall) for cell, wall in cells)
    seen = instead(cheap)
    assert again(slow, cheap, fail(failed, "no"), target=target).same
    assert again(slow, cheap, target=target, cell=cheap["cell"][:-3]).same
    instead(slow)
    assert again(slow, cheap, target=target, cell=slow["cell"]).same
    cell, evaluators, threads = seen[0]
    assert (cell.name, evaluators, threads) == (cheap["cell"], (tiny.NORM,), 1)
    without = {k: v for k, v in cell.config["trainer"].items() if k != "default_root_dir"}
    assert without == cheap["config"]["trainer"]
    refused(lambda: again(slow, target=target, cell="d3-vp-s1-"), "3 cells", cheap["cell"])
    refused(lambda: again(slow, target=target, cell="x"), "no cell", "'x'")


def test_workers_threads_are_used_and_given_back(again, plain, instead, monkeypatch):
    monkeypatch.setenv("ENTROFLOW_THREADS", "2")
    before = torch.get_num_threads()
    seen = instead(plain)
    again(plain)
    assert seen[0][2] == 2
    assert torch.get_num_threads() == before


def test_all_that_a_record_holds_of_today_is_measured(again, plain, instead):
    mine = tiny.target("tiny", lrs=(1e-3,), evaluators=(tiny.NORM, tiny.raised(tiny.TRACE)))
    theirs = tiny.target("theirs", lrs=(1e-3,), evaluators=(Evaluator("more", 1, "tiny:trace"),))
    cell = expand(mine, "smoke")[0]
    record = honest(cell, ["theirs", "tiny"], (tiny.NORM, tiny.TRACE, theirs.evaluators[0]))
    seen = instead(record)
    lines = again(record, target=mine, known=[theirs]).lines
    assert lines[1].startswith("compared fit@1, norm@1, more@1: ")
    assert [e.key for e in seen[0][1]] == ["norm@1", "more@1"]


# -------------------------------------------------------------------------------------- refusals
MEND = "make tiny TIER=smoke"


def test_without_a_record_that_is_done_there_is_nothing_to_verify(again, plain, no_run):
    refused(again, "not run", MEND)
    refused(lambda: again(cell=plain["cell"]), plain["cell"], "not run", MEND)
    refused(lambda: again(fail(plain, "no")), "failed", MEND)
    refused(lambda: again({**plain, "metrics": {"fit@0": {}}}), "older", MEND)
    refused(lambda: again({**plain, "metrics": {"fit@1": {}, "norm@0": {}}}), "older", MEND)


EVIL = {"class_path": "subprocess.Popen", "init_args": {"args": "true"}}
NET = "config.model.init_args.net"
BAD = {
    "foreign class": lambda r: renamed(changed(r, NET, EVIL)) | {"cell": r["cell"]},
    "forged": lambda r: changed(r, NET, EVIL),
    "bare string": lambda r: changed(r, NET, "os.system"),
    "NaN": lambda r: changed(r, "metrics.norm@1.norm", float("nan")),
    "another's name": lambda r: {**r, "cell": "../" + r["cell"]},
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("named", [True, False])
def test_a_record_that_cannot_be_trusted_is_refused(bad, named, store, no_run, plain):
    target = tiny.target(lrs=(1e-3, 2e-3))
    save(store.results, honest(expand(target, "smoke")[1]))
    # under the name that the target asks for
    path = save(store.results, BAD[bad](plain), name=plain["cell"])
    cell = plain["cell"] if named else None
    refused(lambda: verify(target, "smoke", store, cell), path.name, MEND)


def test_a_config_under_eight_equal_digits_is_refused(again, plain, no_run, monkeypatch):
    other = renamed(changed(plain, NET, "evil"))  # a word, which could be a file here

    class Same(Cell):
        name = plain["cell"]

    monkeypatch.setattr("reproduce.trust.Cell", Same)
    refused(lambda: again({**other, "cell": plain["cell"]}), "another config", MEND)


def test_missing_data_is_a_wrong_request(again, plain, instead):
    instead(fail(plain, "DataError: mnist: no folder has it; get it with `make data`"))
    refused(lambda: again(plain), plain["cell"], "make data")


def test_without_its_gpu_a_cell_is_refused(again, no_run, monkeypatch):
    cheap = {**tiny.CHEAP, "trainer.accelerator": "gpu"}
    monkeypatch.setattr(tiny, "CHEAP", cheap)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    target = tiny.target(lrs=(1e-3,))
    record = honest(expand(target, "smoke")[0])
    refused(lambda: again(record, target=target), "needs a GPU")


def test_a_run_that_does_not_end_is_told(again, plain, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner, "run_cell", full)
    refused(lambda: again(plain), "did not end", "free some space")
