"""W1, W2 and W3: flows, token flows and score networks beside what they are compared with."""

import random
import sys
from types import ModuleType

from lightning_modules import neural_entropy as networks
from lightning_modules.simflow import sampling
from lightning_modules.simflow.transformer import Cache

import pytest
import torch
from test_bench import workload

from reproduce import bench_flows, bench_networks, bench_peers, bench_tokens
from reproduce.bench import Contender, judge, measure
from reproduce.errors import RequestError


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
    full = bench_flows._in_a_process("Glow")
    assert hidden < full < 3 * hidden
    assert bench_flows._in_a_process(bench_flows.BF16) < full


# ------------------------------------------------------------------------------------------ W2
@pytest.fixture
def tiny_tokens(monkeypatch):
    for name, value in (("SIDE", 8), ("WIDTH", 16), ("LAYERS", (1, 1)), ("HEAD", 8)):
        monkeypatch.setattr(bench_tokens, name, value)


def test_a_cache_that_grows_gives_the_same_samples(tiny_tokens):
    flow, z = bench_tokens._flow(2), bench_tokens._images(2, 3)
    made = []
    for cache in (bench_tokens._as_it_is, bench_tokens._growing):
        with cache():
            made.append(sampling.inverse(flow, z).x)
    assert not torch.equal(made[0], z)
    torch.testing.assert_close(*made)
    assert sampling.Cache is Cache  # put back


def test_the_floor_has_the_products_of_the_flow(tiny_tokens, monkeypatch):
    """As many multiplications as the linear layers of a forward pass, of as many rows."""
    counted = []
    monkeypatch.setattr(torch, "mm", lambda a, b: counted.append(a.shape[0] * b.numel()))
    bench_tokens._products(False)()
    flow, rows, wanted = bench_tokens._flow(4), bench_tokens.TRAIN * 4, 0
    for layer in flow.modules():
        if isinstance(layer, torch.nn.Linear):
            wanted += rows * layer.weight.numel()
    assert sum(counted) == wanted
    forward = len(counted)
    bench_tokens._products(True)()
    assert len(counted) == 4 * forward  # and thrice as many with the way back


def test_tokens_runs_every_contender_it_judges(tiny_tokens):
    workload = bench_tokens.tokens()
    rows = judge(workload, measure(workload, 1, random.Random(0)))
    assert len(rows) == len(workload.contenders) == 11
    assert sum(bool(row["judged"]) for row in rows) == 5
    assert all(row["median"] > 0 for row in rows)


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
