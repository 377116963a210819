"""The bench: shuffled rounds, ratios within a round, contenders that do equal work."""

import csv
import itertools
import random
import socket
import sys
from types import ModuleType

from lightning_modules import neural_entropy as networks

import pytest
import torch

from reproduce import (
    bench,
    bench_flows,
    bench_networks,
    bench_peers,
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
    import torch

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
    import torch

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


# ------------------------------------------------------------------------------------------ W1
def test_the_best_of_several_is_another_one_in_each_round():
    rows = [Contender("ours", ("a", "b"), 1.0), Contender("a"), Contender("b")]
    values = {"ours": [6.0, 6.0, 6.0], "a": [3.0, 1.0, 4.0], "b": [2.0, 12.0, 5.0]}
    row = judge(workload(rows, {}, "1/s"), values)[0]
    assert (row["ratio_low"], row["ratio"], row["ratio_high"]) == (0.5, 1.2, 2.0)
    assert (row["reference"], row["meets"]) == ("a or b", "accept")


def test_of_memory_as_of_seconds_the_least_is_the_best():
    rows = [Contender("ours", ("a", "b"), 1.0, 0.5, unit="MiB"), Contender("a"), Contender("b")]
    row = judge(workload(rows, {}, "images/s"), {"ours": [9.0], "a": [10.0], "b": [12.0]})[0]
    assert (row["ratio"], row["unit"], row["meets"]) == (0.9, "MiB", "accept")


def test_flows_need_those_they_are_compared_with(monkeypatch):
    for peer in bench_peers.PEERS:
        monkeypatch.setitem(sys.modules, peer, None)
    with pytest.raises(RequestError, match=r"compares with FrEIA.*'\.\[bench\]'"):
        bench_flows.flows()


def test_flows_runs_every_contender_it_judges(monkeypatch):
    for peer in bench_peers.PEERS:
        monkeypatch.setitem(sys.modules, peer, ModuleType(peer))
    called = []

    def made(name):
        called.append(name)
        module = torch.nn.Linear(1, 1)
        return bench_peers.Flow(module, lambda x: module(x[:, 0, 0, :1]), torch.zeros)

    monkeypatch.setattr(bench_flows, "_built", made)
    monkeypatch.setattr(bench_flows, "_in_a_process", lambda name: 100.0 + len(name))
    workload = bench_flows.flows()
    rows = judge(workload, measure(workload, 2, random.Random(0)))
    judged = {row["contender"]: row for row in rows if row["judged"]}
    for kind in ("train", "log_prob", "sample", "memory"):
        assert set(judged[f"Glow, {kind}"]["reference"].split(" or ")) == {
            f"{peer}, {kind}" for peer in bench_peers.PEERS
        }
        assert all(judged[f"Glow, {kind}"][key] for key in ("ratio", "accept", "aim"))
    assert judged["Glow with Shuffle, train"]["reference"] == "Glow, train"
    assert set(called) == {*bench_peers.PEERS, "Glow", bench_flows.BF16, bench_flows.SHUFFLED}


def test_a_turn_is_timed_after_its_first_call(monkeypatch):
    clock, called = [0.0], []

    def call(name, seconds):
        called.append(name)
        clock[0] += 100 * seconds if called[-2:-1] != [name] else seconds

    monkeypatch.setattr(bench_flows.time, "perf_counter", lambda: clock[0])
    calls = [lambda: call("a", 0.5), lambda: call("b", 2.0)]
    assert bench_flows._in_turns(calls) == [bench_flows.BATCH / 0.5, bench_flows.BATCH / 2.0]
    assert called == [*"aaa", *"bbb"] * bench_flows.TURNS


@pytest.mark.slow
def test_the_memory_of_training_is_that_of_what_it_keeps():
    batch, least = bench_flows.BATCH, bench_flows.HIDDEN * 4 * 2**-20
    hidden = 2 * least * batch * bench_flows.STEPS * sum(4**k for k in (4, 3, 2))
    assert hidden < bench_flows._in_a_process("Glow") < 3 * hidden
    half = bench_flows._in_a_process(bench_flows.BF16)
    assert half < bench_flows._in_a_process("Glow")


# ------------------------------------------------------------------------------------------ W3
def test_networks_need_the_one_they_are_compared_with(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(RequestError, match=r"'\.\[bench\]'"):
        bench_networks.networks()


def test_two_in_turns():
    called = []
    rates = bench_networks._in_turns(lambda: called.append(1), lambda: called.append(2), 3)
    assert called == [1, 2] * 4  # the first of each is not timed
    assert all(rate > 0 for rate in rates)


def test_the_estimate_and_its_passes_evaluate_as_many_images(monkeypatch):
    rows = []
    whole = networks.ConvUNet.forward

    def forward(self, y, s):
        rows.append(len(y) * (len(y) <= 64))  # more rows come again, in parts
        return whole(self, y, s)

    monkeypatch.setattr(networks.ConvUNet, "forward", forward)
    monkeypatch.setattr(bench_networks, "_POINTS", 10)

    def counted(one, other, times):
        counts = []
        for call in (one, other):
            rows.clear()
            call()
            counts.append(sum(rows))
        return counts

    monkeypatch.setattr(bench_networks, "_in_turns", counted)
    assert len(set(bench_networks._estimate())) == 1


def test_our_network_is_of_the_size_that_is_compared():
    assert sum(p.numel() for p in bench_networks._ours().parameters()) == 1_489_441
