"""The statistics behind verdicts: Student's interval, the effect it sees, Holm's correction."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
from scipy import optimize, stats

__all__ = ["holm", "interval", "smallest_effect"]

V = TypeVar("V", bound=Any)  # a verdict: claim, verdict, p, holm


def interval(values: Any, level: float = 0.95) -> tuple[float, float]:
    """Student t interval of the mean; (nan, nan) for fewer than three values."""
    values = np.asarray(values, float)
    if len(values) < 3:
        return math.nan, math.nan
    half = stats.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean() - half), float(values.mean() + half)


def placed(
    inside: tuple[float, float], outside: tuple[float, float], low: float, high: float
) -> str:
    """A verdict: is one interval inside (low, high), or the other one disjoint from it?"""
    if low < inside[0] and inside[1] < high:
        return "reproduced"
    return "contradicted" if outside[1] < low or outside[0] > high else "undecided"


def smallest_effect(values: np.ndarray, power: float = 0.8) -> float | None:
    """The true mean that a two-sided 5 % t test sees with this power, at this spread and n."""
    n = len(values)
    if n < 3:
        return None
    return _detectable_shift(n, power) * float(np.std(values, ddof=1)) / n**0.5


@cache
def _detectable_shift(n: int, power: float) -> float:
    """The noncentrality at which the t test with n values has this power."""
    t = stats.t.ppf(0.975, n - 1)

    def lack(shift: float) -> float:
        # the far tail underflows to nan where it is nothing
        seen = stats.nct.sf(t, n - 1, shift) + np.nan_to_num(stats.nct.cdf(-t, n - 1, shift))
        return float(seen) - power

    return float(optimize.brentq(lack, 0.0, 20.0))


def holm(verdicts: Sequence[V], alpha: float = 0.05) -> list[V]:
    """Mark which decided statistical claims of one paper survive Holm's correction."""
    judged = ("reproduced", "contradicted", "undecided")
    tested = [v for v in verdicts if v.p is not None and v.verdict in judged]
    survive: set[str] = set()
    for rank, v in enumerate(sorted(tested, key=lambda v: v.p or 0.0)):
        if (v.p or 0.0) > alpha / (len(tested) - rank):
            break
        survive.add(v.claim)
    return [
        replace(v, holm=v.claim in survive) if v in tested and v.verdict != "undecided" else v
        for v in verdicts
    ]
