"""The claims of EIW-Flow's targets on made-up numbers, and what is derived by hand."""

import math
import random
from types import SimpleNamespace

from lightning_modules import EIWFlow
from lightning_modules.eiw_flow import Glow, Uniform
from lightning_modules.flows import Noise

import pandas as pd
import pytest
import torch
from eiw_numbers import DERIVED, TARGETS, derived, made_up, observed

from reproduce.claims import judge
from reproduce.eiw_flow import cost_evaluators, features, likelihoods
from reproduce.tables import summary_table
from reproduce.target import TIERS, Identity, Value, named


# ------------------------------------------------------------------------------- all claims
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.id)
def test_every_claim_is_judged_at_its_tiers(target, tier):
    seen = observed(target, tier, made_up(target, tier))
    assert set(summary_table(seen)["metric"]) == set(seen.rows["metric"])
    if tier in ("small", "gpu"):
        assert set(seen.rows["metric"]) == set(target.metrics)
    claims = {f"{target.id}/{c.slug}": c for c in target.claims}
    found = {v.claim: v for v in judge(seen)}
    values = {name for name, c in claims.items() if isinstance(c, Value) and tier not in c.tiers}
    assert found.keys() == claims.keys() - values
    for name, verdict in found.items():
        if tier not in claims[name].tiers:
            assert verdict.verdict == "not comparable", verdict
            continue
        assert verdict.verdict in ("reproduced", "contradicted", "undecided"), verdict
        assert verdict.n >= (1 if isinstance(claims[name], Identity) else 3 * (tier != "paper"))
        assert verdict.n, verdict
        assert math.isfinite(verdict.ours), verdict


def test_evaluators_give_what_the_targets_ask_for(monkeypatch):
    monkeypatch.setattr(cost_evaluators, "_TURNS", 2)
    monkeypatch.setattr(cost_evaluators, "_WARM_UP", 0)
    model = EIWFlow(Glow((1, 8, 8), steps=1, hidden=4, order="eiw"), Uniform(bits=4)).eval()
    x = torch.randint(16, (48, 1, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        model.train()(x, Noise(torch.Generator().manual_seed(0)))
    data = SimpleNamespace(x_eval=x, x_eval_damaged=x, c_eval=torch.arange(48) % 2, bits=4)
    calls = {e.call for t in TARGETS.values() for e in t.evaluators}
    given = {call: set(named(call)(model.eval(), data)) for call in calls}
    for target in TARGETS.values():
        assert set(target.metrics) - DERIVED <= set().union(
            *(given[e.call] for e in target.evaluators)
        ), target.id


# ------------------------------------------------------------------------------ planted truths
# Numbers of an arm where the claims hold (s = 1) or their opposites do (s = -1), and the claims
# whose verdicts differ from "reproduced" at s = 1 and "contradicted" at s = -1.
def _order(metric, at, s):
    mode = at["mode"].split("-")[0]
    if metric.startswith("bpd"):
        more = {"identity": 0.1, "reverse": 0.1, "random": 0.05, "ste": -0.05}
        return 3 + s * (more | {"oracle_entropy": -0.1, "anti_oracle": 0.1}).get(mode, 0.0)
    follows = {"eiw": 0.6, "oracle_entropy": 0.9, "anti_oracle": -0.9}
    aligned = metric.startswith(("order_entropy", "order_shape"))
    return s * follows.get(mode, 0.0) if aligned else None


def _difficulty(metric, at, s):
    hard = {"digits": 1.0, "mnist16": 3.0, "tiny16": 4.0, "cifar16": 5.0, "noise": 7.0}[at["data"]]
    gain = 0.05 * (s == -1) if at["data"] == "noise" else s * 0.01 * hard
    return hard - gain * (at["mode"] == "eiw") if metric.startswith("bpd") else None


def _stability(metric, at, s):
    if at["order"] == "random":
        return 3.0
    crossed = sum(i * i % 7 + i * i % 10 / 10 for i in range(at["updates"] // 50))
    late = at["frozen_after"] != "start"
    bits = 1e-5 * s * crossed * late + 0.05 * (s == -1) * (1 + late)
    return 3 + bits if metric.startswith("bpd") else crossed / 2


def _lambda(metric, at, s):
    best = at["lam"] == {"NF": 1e-3, "CNF": 1e-4}[at["backbone"]]
    if metric.startswith("bpd"):
        return 3.0 if best or (at["detach"] == "yes" and s == 1) else 3 + s * 0.05
    return {"H_Q_2": 0.97 - 0.07 * s, "logits_moved_1": 0.05 * (1 - s)}.get(metric)


def _solver(metric, at, s):
    return 3 + 0.05 * (s == -1) * (at["depth"] != 2 or at["reduction"] == 2)


def _entropy(metric, at, s):
    mode, colour = at["mode"], at["data"] == "cifar16"
    effect = {"eiw": 0.3, "identity": -0.3}.get(mode, 0.0)
    more = 1 + s * (0.2 + 0.2 * colour)
    return more if metric == "R2E2_1" and mode == "eiw" else s * effect if "gap" in metric else 1.0


def _growth(metric, at, s):
    if metric.endswith("_std_knn"):
        return 1.3 + 0.02 * int(metric[8]) if s == 1 else 1.6 - 0.02 * int(metric[8])
    return s * int(metric[8]) if metric.startswith("E2") else None


def _information(metric, at, s):
    shuffle = at["mode"] == "eiw"
    return 0.5 - 0.1 * s if metric.startswith("mass_") and metric[5:].isdigit() else (
        0.7 + 0.1 * s * shuffle if metric.startswith("pixels_x") else 0.5
    )  # fmt: skip


_SIZES = {"published_vanilla": 130_647_294, "published_shuffle": 130_922_462}


def _cost(metric, at, s):
    if metric.startswith("wall_ratio") or metric == "memory_ratio":
        return 1.05 + s * 0.2 / at["side"] - 0.02 * s * (at["side"] >= 32)
    exact = _SIZES | {"published_percent": 0.21062, "order_parameters": 8136}
    return exact[metric] + (s == -1) if metric in exact else None


def _inversion(metric, at, s):
    if metric == "bpd_iw16":
        return 3 + 0.05 * (s == -1) * (at["mode"] == "param")
    if metric.startswith("error"):
        return 0.0 if s == 1 else 0.1
    return 1.0 if s == 1 else 0.0


def _bits(**more):
    """Bits by axes: the vanilla flow needs ``s * 0.05`` more, and so on."""

    def number(metric, at, s):
        effects = (0.05 * (at["mode"] == "identity"), 0.03 * at["mode"].startswith("random"))
        extra = sum(slope(at[axis]) for axis, slope in more.items())
        return 3 + s * (sum(effects) + extra) if metric.startswith("bpd") else None

    return number


PLANTS = {
    "eiw-order": (
        _order,
        {"eiw-is-a-random-order": "contradicted", "blocks-are-all-of-vanilla": "contradicted"},
        {"solver-is-a-vector": "reproduced", "code-is-method": "reproduced"},
    ),
    "eiw-density": (_bits(), {"shuffle-makes-no-difference": "contradicted"}, {}),
    "eiw-prior": (_bits(prior=lambda p: -0.1 * (p == "conditional")), {}, {}),
    "eiw-corruption": (_bits(share=lambda p: p), {}, {}),
    "eiw-difficulty": (_difficulty, {}, {}),
    "eiw-stability": (_stability, {}, {}),
    "eiw-lambda": (_lambda, {"flat-as-published": "contradicted"}, {}),
    "eiw-solver": (_solver, {}, {}),
    "eiw-entropy": (_entropy, {}, {}),
    "eiw-gaussianity": (
        lambda metric, at, s: 0.5 - 0.1 * s * (at["mode"] == "eiw"),
        {},
        {},
    ),
    "eiw-growth": (_growth, {}, {}),
    "eiw-information": (_information, {}, {}),
    "eiw-cost": (_cost, {}, {}),
    "eiw-resolution": (_cost, {}, {}),
    "eiw-invertibility": (_inversion, {}, {}),
}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", PLANTS)
def test_planted_truths_are_found(name, sign):
    target, (plant, held, opposed) = TARGETS[name], PLANTS[name]
    rng = random.Random(1)
    statistical = {c.metric for c in target.claims if isinstance(c, Identity)}

    def number(metric, at):
        value = plant(metric, at, sign)
        noise = rng.gauss(0, 1e-7) * (metric not in statistical)
        return None if value is None else value + noise

    exceptions = held if sign == 1 else opposed
    usual = "reproduced" if sign == 1 else "contradicted"
    for verdict in judge(observed(target, "small", made_up(target, "small", number))):
        slug = verdict.claim.split("/")[1]
        assert verdict.verdict == exceptions.get(slug, usual), verdict


def test_all_targets_have_a_plant():
    assert PLANTS.keys() == TARGETS.keys()


# ------------------------------------------------------------------------------- derived rows
def frame(*rows, **axes):
    """Rows of (axes, metric, value), seed 0 where none is given."""
    made = [
        {**axes, "seed": 0, **at, "metric": metric, "value": value, "cell": str(at)}
        for at, metric, value in rows
    ]
    return pd.DataFrame(made)


def at(rows, metric, **where):
    rows = rows[rows["metric"] == metric]
    for axis, value in where.items():
        rows = rows[rows[axis] == value]
    return rows["value"].tolist()


def bits(modes, seed=0):
    return [({"mode": mode, "seed": seed}, "bpd_iw16", value) for mode, value in modes.items()]


def test_controls_of_the_same_seed():
    rows = frame(
        *bits({"identity": 3.0, "random-0": 2.5, "random-1": 2.7, "eiw": 2.0}),
        *bits({"identity": 4.0, "random-0": 1.0, "eiw": 3.0}, seed=1),
        *bits({"eiw": 9.0}, seed=2),  # without its controls
        *[({"mode": "eiw"}, f"order_entropy_{k}", v) for k, v in ((1, 0.2), (2, 0.6))],
        data="digits",
    )
    more = likelihoods.against_controls(rows, "small")
    assert at(more, "over_identity", mode="eiw") == pytest.approx([-1.0, -1.0])
    assert at(more, "over_identity", mode="random-0") == pytest.approx([-0.5, -3.0])
    assert at(more, "over_random", mode="eiw") == pytest.approx([-0.6, 2.0])
    assert at(more, "over_random", mode="identity") == pytest.approx([0.4, 3.0])
    assert at(more, "over_random", mode="random-1") == pytest.approx([0.1])
    assert at(more, "order_entropy") == pytest.approx([0.4])
    assert not at(more, "over_identity", mode="identity")


def test_controls_of_the_same_arm():
    """A prior, a share or a backbone is compared with its own vanilla flow."""
    rows = [
        ({"prior": p, "mode": m}, "bpd_iw16", v)
        for p, m, v in (("a", "identity", 3.0), ("a", "eiw", 2.0), ("b", "identity", 1.0))
    ]
    rows.append(({"prior": "b", "mode": "eiw"}, "bpd_iw16", 1.5))
    more = likelihoods.against_controls(frame(*rows), "small")
    assert at(more, "over_identity", prior="a") == [-1.0]
    assert at(more, "over_identity", prior="b") == [0.5]


@pytest.mark.parametrize(("gains", "rise"), [((1, 2, 3), 1.0), ((3, 2, 1), -1.0)])
def test_gains_rise_with_difficulty(gains, rise):
    rows = [
        ({"data": "noise", "mode": m}, "bpd_iw16", v) for m, v in (("identity", 6), ("eiw", 6))
    ]
    for data, hard, gain in zip(
        ("digits", "mnist16", "cifar16"), (1.6, 4.0, 5.6), gains, strict=True
    ):
        rows.append(({"data": data, "mode": "identity"}, "bpd_iw16", hard))
        rows.append(({"data": data, "mode": "eiw"}, "bpd_iw16", hard - gain))
    more = likelihoods.difficulty(frame(*rows), "small")
    assert at(more, "gain_rise") == pytest.approx([rise])  # noise has no part in it
    assert at(more, "difficulty", data="digits") == pytest.approx([0.4])  # of four bits
    assert at(more, "difficulty", data="cifar16") == pytest.approx([0.7])


def test_excess_over_the_papers_weight():
    rows = [
        ({"backbone": b, "lam": lam, "detach": d}, "bpd_iw16", v)
        for b, d, values in (
            ("NF", "no", {0.0: 3.1, 1e-4: 3.3, 1e-3: 3.0}),
            ("NF", "yes", {0.0: 2.5, 1e-3: 2.0}),
            ("CNF", "no", {1e-4: 1.0, 1e-3: 0.5}),
        )
        for lam, v in values.items()
    ]
    more = likelihoods.best(frame(*rows), "small")
    assert at(more, "excess", backbone="NF", detach="no") == pytest.approx([0.1, 0.3])
    assert at(more, "excess", backbone="NF", detach="yes") == pytest.approx([0.5])
    assert at(more, "excess", backbone="CNF", lam=1e-3) == pytest.approx([-0.5])
    assert len(more) == 4


@pytest.mark.parametrize("sign", [1, -1])
def test_jumps_leave_out_what_every_order_gains(sign):
    falls, crossed = [5.0, 4.0, 3.5, 3.3, 3.2], [0, 10, 16, 20, 22]  # both ever more slowly
    rises, rows = [0.0, 0.4, 0.64, 0.8, 0.88], []
    for order, frozen in (("random", "0"), ("random", "1"), ("eiw", "start"), ("eiw", "never")):
        for i, base in enumerate(falls):
            cell = {"data": "digits", "order": order, "frozen_after": frozen, "updates": i}
            value = base + {"1": 0.2, "never": sign * rises[i]}.get(frozen, 0.0)
            rows.append((cell, "bpd_iw16", value))
            if order == "eiw":
                moved = crossed[i] * (frozen == "never")
                rows += [(cell, "crossed_1", moved), (cell, "crossed_2", moved)]
    for order, frozen, value in (
        ("random", "0", 7.0),
        ("eiw", "start", 7.1),
        ("eiw", "never", 7.3),
    ):
        cell = {"data": "cifar16", "order": order, "frozen_after": frozen, "updates": 9}
        rows += [(cell, "bpd_iw16", value), (cell, "crossed_1", 3)]
    found = frame(*rows)
    found["cell"] = found["data"] + found["order"] + found["frozen_after"]
    more = likelihoods.stability(found, "small")
    assert at(more, "jumps") == pytest.approx([sign])
    assert at(more, "over_random", data="digits", frozen_after="start") == pytest.approx([-0.1])
    assert at(more, "harm", data="digits") == pytest.approx([sign * 0.88])
    assert at(more, "over_random", data="cifar16") == pytest.approx([0.1, 0.3])
    assert at(more, "harm", data="cifar16") == pytest.approx([0.2])
    assert set(more["updates"]) == {4, 9}  # the last of each


def test_least_gap_and_gain():
    numbers = {"E2_gap_1": 0.5, "E2_gap_2": -0.2, "E2_gap_1_std": 0.1, "E2_gap_2_std": 0.3}
    rows = [({"mode": "eiw"}, metric, value) for metric, value in numbers.items()]
    rows += [({"mode": m}, "R2E2_1", v) for m, v in (("identity", -0.4), ("eiw", 0.2))]
    rows.append(({"mode": "random-0"}, "R2E2_1", -0.5))
    more = features.gaps(frame(*rows, data="digits"), "small")
    assert at(more, "least_gap") == [-0.2]
    assert at(more, "least_gap_std") == [0.1]
    assert at(more, "gain", mode="eiw") == pytest.approx([150.0])  # of |-0.4|
    assert at(more, "gain", mode="random-0") == pytest.approx([-25.0])


def test_least_growth():
    rows = [({"mode": m}, f"E2_stage{k}_knn", v) for m, values in
            (("eiw", (0.0, 1.0, 1.3, 3.0)), ("identity", (2.0, 1.0, 4.0, 5.0)))
            for k, v in enumerate(values)]  # fmt: skip
    standardised = enumerate((1.2, 1.4, 1.3, 1.1))
    rows += [({"mode": "eiw"}, f"E2_stage{k}_std_knn", v) for k, v in standardised]
    more = features.growth(frame(*rows, data="digits"), "small")
    assert at(more, "least_growth", mode="eiw") == pytest.approx([0.3])
    assert at(more, "least_growth", mode="identity") == pytest.approx([-1.0])
    assert at(more, "least_growth_std") == pytest.approx([-0.2])
    assert at(more, "most_std") == [1.4]


@pytest.mark.parametrize("target", [t for t in TARGETS.values() if t.derive], ids=lambda t: t.id)
def test_one_cell_is_enough_to_derive_from(target):
    """What a run that has just begun has; nothing is paired with what is not there."""
    rows = made_up(target, "small")
    paired = {"over_identity", "over_random", "excess", "harm", "gain", "gain_rise"}
    for _, one in rows[rows["seed"] == 0].groupby("cell", sort=False):
        more = derived(target, one, "small")
        found = set(more["metric"]) & paired
        assert found <= {"over_random"}, found
        if found:
            assert "random" in str(one.iloc[0].to_dict())  # a control of its own
