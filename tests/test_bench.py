"""The bench: shuffled rounds, ratios within a round, contenders that do equal work."""

import csv
import itertools
import random
import socket

import pytest
import torch

from reproduce import (
    bench,
    bench_startup,
    bench_steps,
    bench_sweep,
)
from reproduce.__main__ import main
from reproduce.bench import Contender, Workload, in_turn, judge, measure
from reproduce.bench_machine import machine
from reproduce.errors import RequestError


def workload(contenders, runs, unit="s", **options) -> Workload:
    return Workload("wx", "dummies", unit, tuple(contenders), in_turn(runs), **options)


# ------------------------------------------------------------------------------------- rounds
def test_every_round_runs_each_contender_once_in_another_order():
    clock, order = itertools.count(1), []

    def run(name):
        order.append(name)
        return float(next(clock))

    names = ["a", "b", "c", "d"]
    runs = {name: lambda name=name: run(name) for name in names}
    prepared = []
    made = workload(map(Contender, names), runs, prepare=lambda: prepared.append(len(order)))
    values = measure(made, 12, random.Random(1))

    rounds = [tuple(order[i : i + 4]) for i in range(0, len(order), 4)]
    assert len(rounds) == 12
    assert all(sorted(r) == names for r in rounds)
    assert len(set(rounds)) > 6
    assert {r[0] for r in rounds} == set(names)  # nobody has the first place for himself
    assert prepared == [0]
    for name in names:  # in the order of rounds, which is what pairs them
        assert values[name] == [4 * i + r.index(name) + 1 for i, r in enumerate(rounds)]


def test_progress_says_workload_round_and_contender(capsys):
    runs = {"a": lambda: 0.25, "b": lambda: 1234.5678}
    measure(workload(map(Contender, runs), runs, "steps/s"), 2, random.Random(0))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "wx round 2/2: b 1235 steps/s" in lines


# ------------------------------------------------------------------------------------- ratios
def test_the_ratio_is_the_median_of_the_ratios_of_each_round():
    made = workload([Contender("ours", "theirs", 1.0, 0.5), Contender("theirs")], {})
    # the second round was slow for both, which a ratio of medians would not see
    ours, theirs = judge(made, {"ours": [3.0, 40.0, 5.0], "theirs": [4.0, 100.0, 2.0]})
    assert ours["median"] == 5.0
    assert (ours["ratio_low"], ours["ratio"], ours["ratio_high"]) == (0.4, 0.75, 2.5)
    assert (ours["reference"], ours["rounds"], ours["judged"]) == ("theirs", 3, "ratio")
    assert (ours["accept"], ours["aim"], ours["meets"]) == (1.0, 0.5, "accept")
    assert theirs["median"] == 4.0
    assert [theirs[k] for k in ("ratio", "ratio_low", "reference", "judged", "meets")] == [""] * 5


@pytest.mark.parametrize(
    ("unit", "value", "meets"),
    [
        *(("s", 0.7, "aim"), ("s", 0.75, "aim"), ("s", 0.9, "accept"), ("s", 1.1, "no")),
        *(("cells/h", 0.7, "no"), ("cells/h", 0.75, "no"), ("cells/h", 1.0, "accept")),
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_seconds_shall_be_few_and_everything_else_much(unit, value, meets, absolute):
    aim = 0.75 if unit == "s" else 1.25
    made = Contender("ours", "theirs", 1.0, aim, absolute=absolute)
    their = 2.0 if absolute else 1.0
    row, _ = judge(
        workload([made, Contender("theirs")], {}, unit), {"ours": [value], "theirs": [their]}
    )
    assert row["meets"] == meets
    assert row["judged"] == (unit if absolute else "ratio")
    assert row["ratio"] == value / their


# ------------------------------------------------------------------------------------- command
def dummy() -> Workload:
    runs = {"ours": lambda: 2.0, "theirs": lambda: 3.0}
    made = [Contender("ours", "theirs", 1.0, 0.5, note="all, and more"), Contender("theirs")]
    return workload(made, runs)


@pytest.fixture
def only_dummy(monkeypatch):
    monkeypatch.setattr(bench, "WORKLOADS", {"wx": "test_bench:dummy"})


@pytest.mark.parametrize("named", [[], ["wx"], ["WX", "wx"]])
def test_bench_writes_a_table_with_the_machine(named, only_dummy, tmp_path, capsys):
    assert bench.bench(named, tmp_path / "bench", 2) == 0
    assert [p.name for p in (tmp_path / "bench").iterdir()] == ["wx.csv"]
    with (tmp_path / "bench" / "wx.csv").open() as file:
        rows = list(csv.DictReader(file))
    own = (
        "workload contender median unit reference ratio ratio_low ratio_high rounds judged accept"
    )
    assert list(rows[0]) == [*own.split(), "aim", "meets", "note", *machine()]
    assert len(rows) == 2
    assert rows[0]["ratio"] == "0.6667"
    assert rows[0]["note"] == "all, and more"
    assert {row["cores"] for row in rows} == {str(machine()["cores"])}
    shown = capsys.readouterr().out
    assert shown.count("WX dummies") == 1
    assert "0.667" in shown
    assert "accept" in shown


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["w9"], "'w9': choose from w1, w2, w3, w5, w6, w7"),
        (["w5", "--rounds", "0"], "at least 1, not 0"),
    ],
)
def test_a_wrong_request_is_one_line_and_writes_nothing(args, says, tmp_path, capsys):
    assert main(["bench", *args, "--results", str(tmp_path / "r")]) == 2
    out, error = capsys.readouterr()
    assert says in error
    assert len(error.splitlines()) == 1
    assert out == ""
    assert not list(tmp_path.iterdir())


def test_the_machine_is_described_without_names_or_paths():
    described = machine()
    text = " ".join(map(str, described.values()))
    assert socket.gethostname() not in text.split()
    assert not any(word.startswith(("/", "~")) for word in text.split())
    assert described["cores"] >= 1
    assert described["memory_gib"] > 0
    assert described["torch"][0].isdigit()
    assert described["cpu"]


# ------------------------------------------------------------------------------------ w5 and w6
def test_a_contender_that_does_not_run_is_told_in_one_line():
    code = "import sys; print('no such\\nluck', file=sys.stderr); sys.exit(3)"
    with pytest.raises(RequestError, match="exited with 3: no such luck") as told:
        bench_startup.command(["-c", code])
    assert "\n" not in str(told.value)


@pytest.mark.slow
def test_both_trainings_of_w5_end_in_the_same_weights(tmp_path, monkeypatch):

    ours, stock = tmp_path / "ours", tmp_path / "stock.ckpt"
    save = f"LightningCLI().trainer.save_checkpoint({str(stock)!r})"
    script = bench_startup.SCRIPT.replace("LightningCLI()", save)
    monkeypatch.setattr(bench_startup, "SCRIPT", script)
    assert bench_startup._stock() > 0
    into = ["--trainer.logger=false", f"--trainer.default_root_dir={ours}"]
    monkeypatch.setattr(bench_startup, "into", lambda folder: into)
    assert bench_startup._ours() > 0
    a, b = (torch.load(p, weights_only=True) for p in (ours / "last.ckpt", stock))
    assert a["global_step"] == b["global_step"] == 2
    assert a["state_dict"].keys() == b["state_dict"].keys()
    assert all(torch.equal(value, b["state_dict"][key]) for key, value in a["state_dict"].items())


def test_the_loop_of_w6_takes_one_cell_of_each_arm():
    cells = bench_sweep._cells()
    looped = [cell.axes for cell in cells[: bench_sweep.LOOPED]]
    assert len(cells) % len(looped) == 0
    assert [cell.axes for cell in cells] == looped * (len(cells) // len(looped))


@pytest.mark.slow
def test_w6_runs(monkeypatch):
    monkeypatch.setattr(bench_sweep, "SEEDS", 1)
    monkeypatch.setattr(bench_sweep, "LOOPED", 1)
    values = measure(bench_sweep.sweep(), 1, random.Random(0))
    assert all(0 < value < 1e5 for (value,) in values.values())


# ------------------------------------------------------------------------------------------ w7
def test_the_trainer_and_the_bare_loop_end_with_equal_weights():

    torch.set_num_threads(2)
    try:
        rates = bench_steps.race(bench_steps.smallest("ne-epochs", 20), 20, 5, 5)
        assert torch.get_num_threads() == 2  # as it was
    finally:
        torch.set_num_threads(1)
    assert all(rate > 0 for rate in rates)


@pytest.mark.parametrize("differs", ["updates", "noise"])
def test_unequal_work_is_not_compared(differs, monkeypatch):
    bare = bench_steps._bare

    def other(model, data, updates):
        if differs == "noise":
            model.seed += 1
        return bare(model, data, updates - 1 if differs == "updates" else updates)

    monkeypatch.setattr(bench_steps, "_bare", other)
    with pytest.raises(RuntimeError, match="different weights"):
        bench_steps.race(bench_steps.smallest("ne-epochs", 20), 20, 5, 5)


def test_what_is_timed_leaves_the_warm_up_out():
    assert bench_steps._rate([100.0, 50.0, 1.0, 3.0], 25, 50) == 12.5


def test_a_longer_cell_has_as_many_marks_and_checkpoints():
    short, long = (bench_steps.smallest("ne-epochs", n) for n in (300, 1500))
    assert long.updates == [5 * update for update in short.updates]
    assert long.config["checkpoint"]["every"] == 5 * short.config["checkpoint"]["every"]
    assert long.config["trainer"]["max_steps"] == 1500


def test_w7_names_its_contenders_as_it_judges_them(monkeypatch):
    monkeypatch.setattr(bench_steps, "race", lambda *args: (9.0, 10.0))
    made = bench_steps.steps()
    ours, bare = judge(made, measure(made, 2, random.Random(0)))
    assert (ours["median"], bare["median"]) == (9.0, 10.0)
    assert (ours["ratio"], ours["meets"]) == (0.9, "accept")
