"""Verdicts by value: each kind of claim on numbers whose verdict can be worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reproduce.claims import judge
from reproduce.statistics import holm, interval, smallest_effect
from reproduce.tables import Observed
from reproduce.target import (
    Arm,
    Equivalence,
    Evaluator,
    Identity,
    Order,
    Pick,
    Printed,
    Target,
    Trend,
    Value,
)
from reproduce.verdict import Verdict


def target(*claims, index=""):
    return Target(
        id="ne-test",
        paper="neural-entropy",
        title="t",
        question="q",
        reference="r",
        config="neural_entropy",
        arms=lambda tier: [Arm({"arm": "a"}), Arm({"arm": "b"})],
        seeds=dict.fromkeys(("smoke", "small", "gpu", "paper"), 3),
        evaluators=(Evaluator("e", 1, "x:y"),),
        metrics={"m": "nats", "m_se": "nats"},
        claims=claims,
        figure="x:y",
        index=index,
    )


def seen(claims, values, *, index="", tier="small", lacking=0, axis="arm"):
    """``values``: {(arm, index value or None, metric): numbers, one per seed}."""
    rows = [
        {axis: arm, "seed": seed, "metric": metric, "value": value, "cell": f"{arm}{seed}"}
        | ({index: at} if index else {})
        for (arm, at, metric), numbers in values.items()
        for seed, value in enumerate(numbers)
    ]
    frame = pd.DataFrame(rows, columns=[axis, "seed", *([index] if index else []), "metric",
                                        "value", "cell"])  # fmt: skip
    status = ["done"] * 6 + ["failed"] * lacking
    cells = pd.DataFrame({"status": status})
    return Observed(target(*claims, index=index), tier, (axis,), frame, cells, ())


def one(claim, values, **kwargs) -> Verdict:
    return judge(seen([claim], values, **kwargs))[0]


A, B = Pick("m", {"arm": "a"}), Pick("m", {"arm": "b"})
LESS = Order("slug", "a < b", less=A, greater=B, unit="nats")


def pair(a, b):
    return {("a", None, "m"): a, ("b", None, "m"): b}


def test_interval_is_students():
    values = [1.0, 2.0, 4.0, 5.0]
    low, high = interval(values)
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (low, high) == pytest.approx(expected)
    assert all(math.isnan(v) for v in interval([1.0, 2.0]))


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([1, 2, 3], [2.0, 3.1, 3.9], "reproduced"),
        ([2.0, 3.1, 3.9], [1, 2, 3], "contradicted"),
        ([1, 2, 3], [1.5, 1.5, 3.5], "undecided"),
        ([1, 2], [5, 6], "undecided"),
    ],
)
def test_order(a, b, verdict):
    got = one(LESS, pair(a, b))
    assert got.verdict == verdict
    assert got.ours == pytest.approx(np.mean(np.subtract(b, a)))
    if len(a) < 3:
        assert got.reason.startswith("n < 3")
        assert got.ci_low is None
    else:
        assert (got.ci_low, got.ci_high) == pytest.approx(interval(np.subtract(b, a)))


def test_order_pairs_seeds():
    # large common seed effect, small constant gain: only the paired difference sees it
    a = np.array([0.0, 100.0, -50.0])
    assert one(LESS, pair(a, a + np.array([1.0, 1.1, 0.9]))).verdict == "reproduced"
    assert one(LESS, pair(a, [1.0, 101.0])).n == 2  # a seed that one arm lacks is left out


def test_order_against_a_constant():
    claim = Order("slug", "b > 0.8", less=0.8, greater=B)
    got = one(claim, pair([0], [0.9, 0.91, 0.92]))
    assert got.verdict == "reproduced"
    # what is shown is the number itself with its interval, not its distance to 0.8
    assert got.ours == pytest.approx(0.91)
    assert (got.ci_low, got.ci_high) == pytest.approx(interval([0.9, 0.91, 0.92]))
    assert one(claim, pair([0], [0.5, 0.51, 0.52])).verdict == "contradicted"
    below = one(Order("slug", "b < 0.6", less=B, greater=0.6), pair([0], [0.3, 0.31, 0.35]))
    assert (below.verdict, below.ours) == ("reproduced", pytest.approx(0.32))
    assert (below.ci_low, below.ci_high) == pytest.approx(interval([0.3, 0.31, 0.35]))


@pytest.mark.parametrize(
    ("b", "verdict"),
    [
        ([1.01, 0.99, 1.0], "reproduced"),
        ([1.5, 1.52, 1.49], "contradicted"),
        ([1.15, 1.0, 0.9], "undecided"),
    ],
)
def test_equivalence(b, verdict):
    claim = Equivalence("slug", "b is 1", a=B, b=1.0, margin=0.1)
    got = one(claim, pair([0], b))
    assert got.verdict == verdict
    assert got.margin == pytest.approx(0.1)


def test_equivalence_uses_the_90_percent_interval_to_confirm():
    # half widths: 90 %: 2.92 s/sqrt(3), 95 %: 4.30 s/sqrt(3); the margin lies between
    b = 1 + np.array([-1.0, 0.0, 1.0])
    margin = 3.5 / 3**0.5
    claim = Equivalence("slug", "s", a=B, b=1.0, margin=margin)
    assert one(claim, pair([0], b)).verdict == "reproduced"


def test_relative_equivalence():
    claim = Equivalence("slug", "s", a=A, b=B, margin=0.05, relative=True)
    assert one(claim, pair([101, 204, 306], [100, 200, 300])).verdict == "reproduced"
    assert one(claim, pair([110, 221, 331], [100, 200, 300])).verdict == "contradicted"
    assert one(claim, pair([101, 204, 306], [100, 200])).n == 2  # a seed that one arm lacks


@pytest.mark.parametrize("statistic", ["slope", "spearman"])
def test_trend(statistic):
    claim = Trend("slug", "rises", metric="m", axis="updates", statistic=statistic)
    rising = {("a", t, "m"): [t + e for e in (0.1, 0.2, 0.35)] for t in (1, 2, 4)}
    got = one(claim, rising, index="updates")
    assert got.verdict == "reproduced"
    assert got.ours == pytest.approx(1.0)
    falling = Trend("slug", "falls", metric="m", axis="updates", sign=-1, statistic=statistic)
    assert one(falling, rising, index="updates").verdict == "contradicted"


def test_value_against_the_printed_number():
    # printed.csv: transport-figure/S_tot, vp, D3 is 1.09 +- 0.03
    claim = Value("slug", "v", pick=Pick("m"), printed=Printed("transport-figure/S_tot"),
                  where={"process": "vp"})  # fmt: skip

    def verdict(numbers):
        values = {("vp", None, "m"): numbers}
        s = seen([claim], values, axis="process")
        s.rows["mixture"] = "D3"
        s = Observed(s.target, "paper", ("process", "mixture"), s.rows, s.cells, ())
        return judge(s)[0]

    assert verdict([1.09, 1.095, 1.085]).verdict == "reproduced"
    assert verdict([1.3, 1.31, 1.29]).verdict == "contradicted"
    assert verdict([1.09, 1.15, 1.04]).verdict == "undecided"
    assert verdict([1.09, 1.095, 1.085]).margin == pytest.approx(0.03)


def test_identity():
    claim = Identity("slug", "m is 0", metric="m", equals=0.0, atol=1e-5)
    assert one(claim, pair([1e-6], [-9e-6])).verdict == "reproduced"
    broken = one(claim, pair([1e-6], [-2e-5]))
    assert broken.verdict == "contradicted"
    assert broken.reason == "broken at arm=b"
    assert one(claim, pair([math.nan], [0.0])).verdict == "contradicted"
    bound = Identity("slug", "m >= 0", metric="m", low=0.0)
    assert one(bound, pair([0.0], [1.0])).verdict == "reproduced"
    assert one(bound, pair([-1e-12], [1.0])).verdict == "contradicted"
    with_errors = Identity("slug", "s", metric="m", equals=1.0, errors=4, error_metric="m_se")
    values = {("a", None, "m"): [1.3], ("a", None, "m_se"): [0.1]}
    assert one(with_errors, values).verdict == "reproduced"
    values[("a", None, "m")] = [1.5]
    assert one(with_errors, values).verdict == "contradicted"


def test_identity_with_missing_cells_is_undecided():
    claim = Identity("slug", "m is 0", metric="m", equals=0.0, atol=1e-5)
    got = one(claim, pair([0.0], [0.0]), lacking=2)
    assert (got.verdict, "2 of 8 cells" in got.reason) == ("undecided", True)


@pytest.mark.parametrize("verdict", ["reproduced", "contradicted"])
def test_a_claim_is_not_reproduced_on_the_cells_that_happen_to_be_there(verdict):
    a, b = ([1, 2, 3], [2.0, 3.1, 3.9])
    values = pair(a, b) if verdict == "reproduced" else pair(b, a)
    assert one(LESS, values).verdict == verdict
    got = one(LESS, values, lacking=1)
    assert got.verdict == ("undecided" if verdict == "reproduced" else verdict)


def test_more_seeds_than_planned_are_told():
    values = pair([1, 2, 3, 4], [2.0, 3.1, 3.9, 5.2])
    assert "4 seeds where the protocol has 3" in one(LESS, values).reason


def test_copies_of_one_number_count_once():
    claim = Identity("slug", "m is 0", metric="m", equals=0.0, atol=1)
    assert one(claim, pair([0.5, 0.5, 0.5], [0.25, 0.25, 0.5])).n == 3


def test_for_all_needs_every_part():
    claim = Order("slug", "m > 0", over=("arm",), less=0.0, greater=Pick("m"))
    assert one(claim, pair([1, 1.1, 0.9], [2, 2.1, 1.9])).verdict == "reproduced"
    half = one(claim, pair([1, 1.1, 0.9], [2, -2.1, 1.9]))
    assert half.verdict == "undecided"
    assert half.reason == "1 of 2 parts reproduced; weakest: arm=b"
    got = one(claim, pair([1, 1.1, 0.9], [-2, -2.1, -1.9]))
    assert (got.verdict, got.reason) == ("contradicted", "against: arm=b")


def test_for_all_is_contradicted_only_after_bonferroni():
    # p = 0.04 two-sided in one part of five: not enough against a claim with five parts
    t = stats.t.isf(0.02, 2)
    spread = np.array([-1.0, 0.0, 1.0])
    bad = spread - t / 3**0.5
    good = spread * 0.01 + 1
    claim = Order("slug", "m > 0", over=("arm",), less=0.0, greater=Pick("m"))
    alone = one(claim, {("a", None, "m"): bad})
    assert alone.verdict == "contradicted"
    assert alone.p == pytest.approx(0.04)
    values = {("a", None, "m"): bad} | {(arm, None, "m"): good for arm in "bcde"}
    assert one(claim, values).verdict == "undecided"


def test_smoke_judges_identities_only():
    identity = Identity("i", "m is 0", metric="m", equals=0.0, atol=9)
    values = pair([1, 2, 3], [2, 3.1, 3.9])
    order, fact = judge(seen([LESS, identity], values, tier="smoke"))
    assert (order.verdict, fact.verdict) == ("not comparable", "reproduced")
    paper_only = Order("slug", "s", tiers=("paper",), less=A, greater=B)
    assert one(paper_only, values).verdict == "not comparable"
    assert one(paper_only, values, tier="paper").verdict == "reproduced"


def test_without_records_not_run():
    assert one(LESS, {}).verdict == "not run"


def test_first_last_and_later_half():
    values = {("a", t, "m"): [v, v + 0.01, v - 0.01] for t, v in ((1, 9.0), (5, 2.0), (10, 1.0))}
    falls = Order("slug", "s", less=Pick("m", {"updates": "last"}),
                  greater=Pick("m", {"updates": "first"}))  # fmt: skip
    assert one(falls, values, index="updates").ours == pytest.approx(8.0)
    half = Order("slug", "s", over=("updates",), where={"updates": "later half"}, less=0.0,
                 greater=Pick("m"))  # fmt: skip
    assert "2 parts" in one(half, values, index="updates").method


def test_smallest_effect_has_80_percent_power():
    values = np.array([0.1, -0.3, 0.5, 0.2])
    effect = smallest_effect(values)
    shift = effect / (values.std(ddof=1) / 2)
    t = stats.t.ppf(0.975, 3)
    power = stats.nct.sf(t, 3, shift) + stats.nct.cdf(-t, 3, shift)
    assert power == pytest.approx(0.8)
    assert smallest_effect(values[:2]) is None


def test_several_numbers_per_seed_is_an_error():
    claim = Order("slug", "s", less=0.0, greater=Pick("m"))
    with pytest.raises(ValueError, match="several numbers per seed"):
        one(claim, pair([1, 2, 3], [1, 2, 3]))


def test_holm():
    claims = [Order(str(i), "s", less=A, greater=B) for i in range(3)]
    base = judge(seen(claims, pair([1, 2, 3], [2, 3.1, 3.9])))
    ps = (0.001, 0.02, 0.04)  # Holm at 5 %: 0.0167, 0.025, 0.05
    verdicts = [Verdict(**{**v.__dict__, "p": p}) for v, p in zip(base, ps, strict=True)]
    assert [v.holm for v in holm(verdicts)] == [True, True, True]
    verdicts[1] = Verdict(**{**verdicts[1].__dict__, "p": 0.03})
    assert [v.holm for v in holm(verdicts)] == [True, False, False]


def test_one_point_has_no_trend():
    claim = Trend("slug", "rises", metric="m", axis="updates")
    got = one(claim, {("a", 100, "m"): [1.0, 2.0, 3.0]}, index="updates")
    assert (got.verdict, got.n) == ("undecided", 0)


def test_a_statistic_that_is_none_is_refused():
    with pytest.raises(ValueError, match="falls: statistic 'rank' is not slope or spearman"):
        Trend("falls", "It falls", metric="m", axis="updates", statistic="rank")
