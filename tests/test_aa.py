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
from reproduce.target import Arm, Evaluator, Order, Pick, Target

PAIRS = 2000
NOISES = {
    "normal": lambda rng, size: rng.normal(size=size),
    "t3": lambda rng, size: rng.standard_t(3, size=size),
    "skewed": lambda rng, size: rng.exponential(size=size) - 1,
}


def target(metrics, n_seeds):
    """Two arms and, for each metric, the claim that b lies above a."""
    return Target(
        id="ne-aa",
        paper="neural-entropy",
        title="A/A",
        question="",
        reference="",
        config="neural_entropy",
        # arms must differ in their config to be two cells
        arms=lambda tier: [Arm({"arm": a}, {"model.init_args.draws": d}) for a, d in ARMS.items()],
        seeds={"small": n_seeds},
        evaluators=(Evaluator("e", 1, "test_aa:measure"),),
        metrics=dict.fromkeys(metrics, ""),
        claims=tuple(
            Order(m, "", less=Pick(m, {"arm": "a"}), greater=Pick(m, {"arm": "b"}))
            for m in metrics
        ),
        figure="",
    )


ARMS = {"a": 1, "b": 2}


def write(store, aa, values):
    """Records of both arms: ``values[arm]`` is {seed: {metric: number}}."""
    for cell in cells_module.expand(aa, "small"):
        numbers = values[cell.axes["arm"]][cell.seed]
        record = blank(cell, None, [aa.id]) | {
            "status": "done",
            "metrics": {"e@1": numbers},
            "curves": {"e@1": {"updates": [1], **{k: [v] for k, v in numbers.items()}}},
        }
        keys = ("peak_mem_mb", "git_sha", "dirty", "utc")
        store.write(cell, record | dict.fromkeys(keys) | {"packages": {}})


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("noise", NOISES)
def test_false_verdicts_and_coverage(noise, n, tmp_path, monkeypatch):
    """Paired differences of the given law with mean zero; skewed differences are only printed."""
    rng = np.random.default_rng([n, *noise.encode()])
    metrics = [f"m{i}" for i in range(PAIRS)]
    aa, store = target(metrics, n), Store(tmp_path, "small")
    monkeypatch.setattr(
        tables, "PAPERS", {"neural-entropy": ((), tables.PAPERS["neural-entropy"][1][:n])}
    )
    seeds = tables.PAPERS["neural-entropy"][1]
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

    seeds = tables.PAPERS["neural-entropy"][1][:n]
    monkeypatch.setattr(tables, "PAPERS", {"neural-entropy": ((), seeds)})
    numbers = np.array(found).reshape(pairs, 2, n)
    metrics = [f"m{i}" for i in range(pairs)]
    aa = dataclasses.replace(target(metrics, n))
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
