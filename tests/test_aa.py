"""A/A: arms that do not differ, through the whole chain from records to verdicts.

How often does the suite speak of a difference where there is none, and how often does its interval
hold the truth? Prints its figures: pytest tests/test_aa.py -s
"""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from reproduce import cells as cells_module
from reproduce import tables
from reproduce.claims import judge
from reproduce.records import Store, blank
from reproduce.runner import run_cell
from reproduce.target import Arm, Equivalence, Evaluator, Order, Pick, Target

PAIRS = 1000
NOISES = {
    "normal": lambda rng, size: rng.normal(size=size),
    "t3": lambda rng, size: rng.standard_t(3, size=size),
    "skewed": lambda rng, size: rng.exponential(size=size) - 1,
}


def lies_above(metric):
    return Order(metric, "", less=Pick(metric, {"arm": "a"}), greater=Pick(metric, {"arm": "b"}))


def target(metrics, n_seeds, claim=lies_above, parts=1):
    """Two arms, in ``parts`` parts, and a claim for each metric: that b lies above a."""
    return Target(
        id="ne-aa",
        paper="neural-entropy",
        title="A/A",
        question="",
        reference="",
        config="neural_entropy",
        # arms must differ in their config to be two cells
        arms=lambda tier: [
            Arm({"arm": arm, "part": part}, {"model.init_args.draws": 1 + i + 2 * part})
            for part in range(parts)
            for i, arm in enumerate(ARMS)
        ],
        seeds={"small": n_seeds},
        evaluators=(Evaluator("e", 1, "test_aa:measure"),),
        metrics=dict.fromkeys(metrics, ""),
        claims=tuple(map(claim, metrics)),
        figure="",
    )


ARMS = ("a", "b")


def write(store, aa, values):
    """Records of both arms: ``values[arm]`` is {seed: {metric: number}}, or one for each part."""
    for cell in cells_module.expand(aa, "small"):
        arm = values[cell.axes["arm"]]
        numbers = (arm[cell.axes["part"]] if isinstance(arm, list) else arm)[cell.seed]
        record = blank(cell, None, [aa.id]) | {
            "status": "done",
            "metrics": {"e@1": numbers},
            "curves": {"e@1": {"updates": [1], **{k: [v] for k, v in numbers.items()}}},
        }
        keys = ("peak_mem_mb", "git_sha", "dirty", "utc")
        store.write(cell, record | dict.fromkeys(keys) | {"packages": {}})


def protocol(monkeypatch, n):
    """The first n seeds are all there are, so that no further records are looked for."""
    seeds = tables.PAPERS["neural-entropy"][1][:n]
    monkeypatch.setattr(tables, "PAPERS", {"neural-entropy": ((), seeds)})
    return seeds


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("noise", NOISES)
def test_false_verdicts_and_coverage(noise, n, tmp_path, monkeypatch):
    """Paired differences of the given law with mean zero; skewed differences are only printed."""
    rng = np.random.default_rng([n, *noise.encode()])
    metrics = [f"m{i}" for i in range(PAIRS)]
    aa, store = target(metrics, n), Store(tmp_path, "small")
    seeds = protocol(monkeypatch, n)
    common = rng.normal(scale=10, size=(n, PAIRS))  # what pairing must take away
    difference = NOISES[noise](rng, (n, PAIRS))
    values = {
        arm: {s: dict(zip(metrics, row, strict=True)) for s, row in zip(seeds, rows, strict=True)}
        for arm, rows in (("a", common), ("b", common + difference))
    }
    write(store, aa, values)
    verdicts = judge(tables.observe(aa, "small", store))
    assert len(verdicts) == PAIRS
    false = np.mean([v.verdict in ("reproduced", "contradicted") for v in verdicts])
    coverage = np.mean([v.ci_low <= 0 <= v.ci_high for v in verdicts])
    print(f"A/A {noise}, n = {n}: {false:.1%} false verdicts, {coverage:.1%} coverage")
    if noise != "skewed":
        assert false < 0.06
        assert 0.93 <= coverage <= 0.97


@pytest.mark.parametrize("n", [3, 5])
def test_differences_as_large_as_the_margin_are_not_called_equal(n, tmp_path, monkeypatch):
    rng = np.random.default_rng(n)
    metrics = [f"m{i}" for i in range(PAIRS)]

    def equal(metric):
        a, b = (Pick(metric, {"arm": arm}) for arm in ARMS)
        return Equivalence(metric, "", a=a, b=b, margin=4.0)

    aa, store = target(metrics, n, equal), Store(tmp_path, "small")
    seeds = protocol(monkeypatch, n)
    rows = {"a": rng.normal(4.0, size=(n, PAIRS)), "b": np.zeros((n, PAIRS))}
    values = {
        arm: {s: dict(zip(metrics, r, strict=True)) for s, r in zip(seeds, rows[arm], strict=True)}
        for arm in ARMS
    }
    write(store, aa, values)
    verdicts = judge(tables.observe(aa, "small", store))
    false = np.mean([v.verdict == "reproduced" for v in verdicts])
    print(f"difference at the margin, n = {n}: {false:.1%} called equal")
    assert false < 0.06


def test_claims_for_all_are_not_contradicted_by_chance(tmp_path, monkeypatch):
    n, parts, claims = 3, 4, 500
    rng = np.random.default_rng(0)
    metrics = [f"m{i}" for i in range(claims)]
    aa = target(metrics, n, lambda m: dataclasses.replace(lies_above(m), over=("part",)), parts)
    store, seeds = Store(tmp_path, "small"), protocol(monkeypatch, n)
    values = {
        arm: [
            {s: dict(zip(metrics, rng.normal(size=claims), strict=True)) for s in seeds}
            for _ in range(parts)
        ]
        for arm in ARMS
    }
    write(store, aa, values)
    verdicts = [v.verdict for v in judge(tables.observe(aa, "small", store))]
    against, for_it = (np.mean([v == w for v in verdicts]) for w in ("contradicted", "reproduced"))
    print(f"A/A in {parts} parts, n = {n}: {against:.1%} contradicted, {for_it:.1%} reproduced")
    assert against < 0.06
    assert for_it < 0.01


def measure(model, data):
    """A cheap noisy number of a trained model: its output far from the data."""
    import torch

    y = torch.full((1, data.dim), 3.0)
    return {"out": float(model(y, torch.full((1,), 0.5)).detach().sum())}


@pytest.mark.slow
def test_twenty_pairs_of_real_cells(tmp_path, monkeypatch):
    """Twenty A/A comparisons of trained models, three seeds an arm, none of them shared."""
    pairs, n = 20, 3
    aa = target(["out"], n)
    overrides = {
        "model.init_args.net.init_args.dim": 2,
        "model.init_args.net.init_args.widths": [8, 8],
        "model.init_args.net.init_args.frequencies": 4,
        "data.init_args.mixture": "D2",
        "data.init_args.n_train": 64,
        "data.init_args.n_eval": 8,
        "trainer.max_steps": 10,
        "marks.updates": [],
    }
    arm = Arm({"arm": "a"}, overrides)
    found = []
    for seed in range(2 * pairs * n):
        cell = cells_module.resolve(aa, "smoke", arm, seed)
        store = Store(tmp_path / "cells", "smoke")
        assert run_cell(cell, aa.evaluators, [aa.id], store, lambda message: None) == "done"
        found.append(store.read(cell)["metrics"]["e@1"]["out"])
    assert len(set(found)) == len(found)

    seeds = protocol(monkeypatch, n)
    numbers = np.array(found).reshape(pairs, 2, n)
    metrics = [f"m{i}" for i in range(pairs)]
    aa = target(metrics, n)
    values = {
        arm: {s: dict(zip(metrics, numbers[:, i, j], strict=True)) for j, s in enumerate(seeds)}
        for i, arm in enumerate(ARMS)
    }
    store = Store(tmp_path / "pairs", "small")
    write(store, aa, values)
    verdicts = judge(tables.observe(aa, "small", store))
    false = sum(v.verdict in ("reproduced", "contradicted") for v in verdicts)
    low, high = stats.binom.interval(0.95, pairs, 0.05)
    print(f"A/A on {pairs} pairs of real cells: {false} false verdicts ({low:.0f} to {high:.0f})")
    assert false <= high
