"""Records: whole or absent, never lost, taken up by new targets, filled up where they lack."""

import dataclasses
import json
import math
import shutil
import signal

import pytest
import tiny

from reproduce import papers, runner
from reproduce.__main__ import main
from reproduce.cells import expand
from reproduce.provenance import cpu_name
from reproduce.records import CorruptRecord, Store, nine_digits, read_record, write_atomically

# the contract of design.md
KEYS = """targets cell tier seed status config config_sha256 metrics curves params wall_s
    peak_mem_mb git_sha dirty packages device precision data_sha256 utc""".split()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run targets of a registry that holds just these; return the exit code."""

    def go(*targets, command="run", options=()):
        tiny.register(monkeypatch, *targets)
        names = [t.id for t in targets]
        return main([command, *names, "--results", str(tmp_path), *options])

    return go


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*_):
        raise AssertionError("this must not train")

    return lambda: monkeypatch.setattr(runner, "_train", refuse)


def files(tmp_path):
    return sorted((tmp_path / "smoke" / "records").glob("*/*.json"))


def edit(path, change) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


# ------------------------------------------------------------------------------ atomic writes
@pytest.mark.parametrize(
    "fatal",
    [
        "os.fsync = lambda fd: os.kill(os.getpid(), 9)",
        "os.replace = lambda a, b: os.kill(os.getpid(), 9)",
        # the kernel kills whoever writes more than 5000 bytes into one file
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)",
    ],
    ids=["before-sync", "before-rename", "half-written"],
)
def test_a_writer_killed_in_the_middle_leaves_the_old_file(tmp_path, fatal):
    path = tmp_path / "record.json"
    write_atomically(path, "the old one")
    code = f"""
import os, resource, signal
from pathlib import Path
from reproduce.records import write_atomically
{fatal}
write_atomically(Path({str(path)!r}), "the new one " * 10_000)
"""
    done = tiny.python("-c", code, cwd=tmp_path)
    assert -done.returncode in (signal.SIGKILL, signal.SIGXFSZ), done.stderr
    assert path.read_text() == "the old one"
    assert list(tmp_path.glob("*.json")) == [path]  # what is left has no record's name
    write_atomically(path, "the new one")
    assert path.read_text() == "the new one"


def test_a_full_disc_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_atomically(path, "the old one")

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "the new one")
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]
    assert path.read_text() == "the old one"


def test_numbers_have_nine_digits_and_what_is_none_is_null(tmp_path):
    given = {
        "a": 123.4567890123,
        "b": [1 / 3, math.nan, (math.inf, 1e-300)],
        "c": {"d": -math.inf, "e": 7, "f": True, "g": "x", "h": None},
    }
    assert nine_digits(given) == {
        "a": 123.456789,
        "b": [0.333333333, None, [None, 1e-300]],
        "c": {"d": None, "e": 7, "f": True, "g": "x", "h": None},
    }
    assert nine_digits(nine_digits(given)) == nine_digits(given)


# ------------------------------------------------------------------------------ what it holds
def test_a_record_has_the_keys_of_the_contract(run, tmp_path):
    target = tiny.target()
    assert run(target) == 0
    cells = {c.name: c for c in expand(target, "smoke")}
    assert [p.stem for p in files(tmp_path)] == sorted(cells)
    for path in files(tmp_path):

        def no_constant(word):
            raise AssertionError(f"{word} is no JSON")

        record = json.loads(path.read_text(), parse_constant=no_constant)
        cell = cells[path.stem]
        assert set(KEYS) <= set(record)
        assert record["config_sha256"] == cell.sha256
        assert (record["cell"], record["tier"], record["seed"]) == (cell.name, "smoke", 1)
        assert record["targets"] == ["tiny"]
        assert record["status"] == "done"
        assert "error" not in record
        assert str(tmp_path) not in path.read_text()
        assert not {"default_root_dir", "logger"} & set(record["config"]["trainer"])
        # D = 3, 32 frequencies, widths 64 and 32: embeddings, from_s and from_h, output, norms
        dense = [(64, 64)] * 4 + [(64, 32)] * 2 + [(32, 3)]
        assert record["params"] == sum((a + 1) * b for a, b in dense) + 2 * (64 + 32)
        assert len(record["data_sha256"]) == 64
        assert set(record["metrics"]) == {"fit@1", "norm@1"}
        assert record["curves"]["norm@1"]["updates"] == [4, 8, 12]
        for name in ("norm", "sum"):
            assert record["metrics"]["norm@1"][name] == record["curves"]["norm@1"][name][-1]
        assert record["wall_s"] > 0
        assert record["peak_mem_mb"] > 10
        assert record["packages"]["torch"]
        assert record["processor"].startswith(cpu_name())
        assert nine_digits(record) == record


@pytest.mark.parametrize("key", KEYS)
def test_a_record_without_a_key_is_neither_written_nor_read(key, tmp_path):
    record = dict.fromkeys(KEYS) | {"metrics": {}, "curves": {}, "targets": []}
    cell = expand(tiny.target(), "smoke")[0]
    del record[key]
    with pytest.raises(ValueError, match=key):
        Store(tmp_path, "smoke").write(cell, record)
    assert not files(tmp_path)
    path = tmp_path / "r.json"
    path.write_text(json.dumps(record))
    with pytest.raises(CorruptRecord):
        read_record(path)


# -------------------------------------------------------------------------------- damaged ones
DAMAGE = {
    "half": lambda raw: raw[: len(raw) // 2],
    "all but the end": lambda raw: raw[:-3],
    "nothing": lambda raw: b"",
    "zeros": lambda raw: bytes(len(raw)),
    "no text": lambda raw: b"\xff\xfe\x00garbage\x80",
    "another type": lambda raw: b"[]",
    "null": lambda raw: b"null",
    "another record": lambda raw: b'{"status": "done"}',
    "wrong inside": lambda raw: raw.replace(b'"metrics": {', b'"metrics": [], "_": {', 1),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_reported_set_aside_and_made_again(run, tmp_path, capsys, damage):
    target = tiny.target()
    assert run(target) == 0
    whole, tables = tiny.records(tmp_path), tiny.tables(tmp_path)
    path, other = files(tmp_path)
    untouched = other.stat().st_mtime_ns
    bad = DAMAGE[damage](path.read_bytes())
    path.write_bytes(bad)
    capsys.readouterr()

    assert run(target, command="status") == 0
    assert "1 missing" in capsys.readouterr().out
    assert run(target, command="report") == 0
    assert path.read_bytes() == bad  # only a run sets aside
    assert run(target, options=["--print"]) == 0
    assert "1 of 2 cells to run" in capsys.readouterr().out
    assert path.read_bytes() == bad

    assert run(target) == 0
    said = capsys.readouterr().out
    assert path.name in said
    assert "set aside" in said
    assert path.with_suffix(".json.1.corrupt").read_bytes() == bad
    assert tiny.numbers(tiny.records(tmp_path)[path.stem]) == tiny.numbers(whole[path.stem])
    assert tiny.tables(tmp_path) == tables
    assert other.stat().st_mtime_ns == untouched


# -------------------------------------------------------------------------------- new targets
def test_a_new_target_adopts_a_record_without_training(run, tmp_path, no_training):
    first, second = tiny.target(), tiny.target("tiny-too", lrs=(2e-3,))
    assert run(first) == 0
    before = {p.stem: p.read_bytes() for p in files(tmp_path)}
    no_training()
    shutil.rmtree(tmp_path / "smoke" / "runs")
    assert run(first, second) == 0
    adopted = expand(second, "smoke")[0].name
    for path in files(tmp_path):
        if path.stem != adopted:
            assert path.read_bytes() == before[path.stem]
        else:
            old, new = json.loads(before[adopted]), json.loads(path.read_text())
            assert new.pop("targets") == ["tiny", "tiny-too"]
            assert old.pop("targets") == ["tiny"]
            assert new == old
    after = {p: p.stat().st_mtime_ns for p in files(tmp_path)}
    assert run(first, second) == 0
    assert {p: p.stat().st_mtime_ns for p in files(tmp_path)} == after


# ---------------------------------------------------------------------------- missing numbers
@pytest.mark.parametrize("lost", [("metrics", "curves"), ("metrics",), ("curves",)], ids=str)
@pytest.mark.parametrize("weights", ["there", "gone", "damaged"])
def test_a_missing_evaluator_is_measured(run, tmp_path, no_training, lost, weights):
    target = tiny.target(evaluators=(tiny.NORM, tiny.TRACE), lrs=(1e-3,))
    assert run(target) == 0
    (whole,), tables = tiny.records(tmp_path).values(), tiny.tables(tmp_path)
    (path,) = files(tmp_path)

    def lose(record):
        for part in lost:
            del record[part]["trace@1"]
        record["metrics"]["norm@1"]["mark"] = 1  # shows whether it was measured again

    edit(path, lose)
    runs = tmp_path / "smoke" / "runs"
    if weights == "there":
        no_training()
    elif weights == "gone":
        shutil.rmtree(runs)
    else:
        next(runs.glob("*/weights-8.pt")).write_bytes(b"PK\x03\x04 damaged")
    assert run(target, command="report") == 0
    assert run(target) == 0
    (record,) = tiny.records(tmp_path).values()
    kept = record["metrics"]["norm@1"].pop("mark", 0)
    assert kept == (weights == "there")
    assert tiny.numbers(record) == tiny.numbers(whole)
    assert set(KEYS) <= set(record)
    assert tiny.tables(tmp_path) == tables


def test_a_second_target_s_evaluator_runs_from_the_weights(run, tmp_path, no_training):
    assert run(tiny.target()) == 0
    no_training()
    assert run(tiny.target(), tiny.target("tiny-too", evaluators=(tiny.TRACE,))) == 0
    for record in tiny.records(tmp_path).values():
        assert set(record["metrics"]) == {"fit@1", "norm@1", "trace@1"}
        assert record["targets"] == ["tiny", "tiny-too"]


def test_an_evaluator_that_fails_costs_no_one_else_a_number(run, tmp_path, capsys):
    good = tiny.target(lrs=(1e-3,))
    broken = dataclasses.replace(tiny.TRACE, call="tiny:broken")
    assert run(good) == 0
    tables = tiny.tables(tmp_path)
    bad = tiny.target("tiny-too", lrs=(1e-3,), evaluators=(broken,))
    assert run(good, bad) == 1
    assert "ValueError: this evaluator is broken" in capsys.readouterr().out
    assert tiny.tables(tmp_path)["tiny.csv"] == tables["tiny.csv"]
    assert tiny.tables(tmp_path)["tiny.cells.csv"] == tables["tiny.cells.csv"]
    assert run(good, tiny.target("tiny-too", lrs=(1e-3,), evaluators=(tiny.TRACE,))) == 0
    (record,) = tiny.records(tmp_path).values()
    assert record["status"] == "done"
    assert "error" not in record


# ------------------------------------------------------------------------------------- stale
def test_a_raised_evaluator_makes_records_stale_but_no_csv(run, tmp_path, capsys, no_training):
    old = tiny.target()
    new = tiny.target(evaluators=(tiny.raised(tiny.NORM),))
    assert run(old) == 0
    tables = tiny.tables(tmp_path)
    capsys.readouterr()
    assert run(new, command="status") == 0
    said = capsys.readouterr().out
    assert said.count("norm@2") == 2
    assert "2 stale" in said
    assert run(new, command="report") == 0
    assert tiny.tables(tmp_path) == tables
    assert not any(b"stale" in text for text in tables.values())
    assert "Stale records" in (tmp_path / "smoke" / "report.md").read_text()
    assert "norm@2" in (tmp_path / "smoke" / "report.html").read_text()

    no_training()  # the weights are there: only the measure is new
    assert run(new) == 0
    for record in tiny.records(tmp_path).values():
        assert set(record["metrics"]) == set(record["curves"]) == {"fit@1", "norm@2"}
    assert "Stale records" not in (tmp_path / "smoke" / "report.md").read_text()


def test_a_raised_model_makes_records_stale_and_trains_again(run, tmp_path, monkeypatch, capsys):
    target = tiny.target(lrs=(1e-3,))
    assert run(target) == 0
    (before,) = (p.stat().st_mtime_ns for p in tmp_path.glob("smoke/runs/*/weights-4.pt"))
    monkeypatch.setitem(papers.MODELS, "neural-entropy", 2)
    capsys.readouterr()
    assert run(target, command="status") == 0
    assert "1 stale" in capsys.readouterr().out
    assert run(target) == 0
    (record,) = tiny.records(tmp_path).values()
    assert set(record["metrics"]) == {"fit@2", "norm@1"}
    (after,) = (p.stat().st_mtime_ns for p in tmp_path.glob("smoke/runs/*/weights-4.pt"))
    assert after > before


def test_a_changed_config_leaves_the_old_record_as_stale(run, tmp_path, capsys):
    assert run(tiny.target(lrs=(1e-3, 2e-3))) == 0
    assert run(tiny.target(lrs=(1e-3, 3e-3))) == 0
    assert len(files(tmp_path)) == 3
    capsys.readouterr()
    assert run(tiny.target(lrs=(1e-3, 3e-3)), command="status") == 0
    assert "no longer asks for this config" in capsys.readouterr().out
    assert b"0.002" not in b"".join(tiny.tables(tmp_path).values())
