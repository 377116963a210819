"""Observations -> verdicts: what the data say of a claim, with the interval they say it with."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from reproduce.identities import judge_identity
from reproduce.statistics import interval, placed, smallest_effect
from reproduce.tables import Observed, paper_value
from reproduce.target import (
    Claim,
    Equivalence,
    Identity,
    Order,
    Pick,
    Trend,
    Value,
)
from reproduce.verdict import Verdict

__all__ = ["judge"]


@dataclass(frozen=True)
class _Part:
    """One claim for one value of its ``over`` axes."""

    label: str
    values: np.ndarray  # one per seed: the difference, slope or deviation that is judged
    low: float = -math.inf  # the claimed side: the mean lies between these
    high: float = math.inf
    shown: tuple[float, int] = (0.0, 1)  # offset and sign: what is shown is offset + sign * mean
    verdict: str = "undecided"
    p: float | None = None
    strength: float = field(default=-math.inf)

    @property
    def mean(self) -> float:
        return float(self.values.mean()) if len(self.values) else math.nan


def judge(seen: Observed) -> list[Verdict]:
    """A verdict for each claim of the target, in order.

    A printed value belongs to the tiers that can judge it; elsewhere it stands in the tables.
    """
    claims = (c for c in seen.target.claims if seen.tier in c.tiers or not isinstance(c, Value))
    return [_judge(claim, seen) for claim in claims]


def _judge(claim: Claim, seen: Observed) -> Verdict:
    target = seen.target
    verdict = Verdict(
        claim=f"{target.id}/{claim.slug}",
        target=target.id,
        reference=target.reference,
        kind=claim.kind,
        statement=claim.statement,
        paper_value=claim.paper,
        ours=None,
        ci_low=None,
        ci_high=None,
        n=0,
        unit=claim.unit,
        margin=None,
        method="",
        smallest_effect=None,
        tier=seen.tier,
        verdict="not run",
        reason=target.not_run or "no record",
    )
    rows = seen.rows
    for axis, wanted in claim.where.items():
        rows = _where(rows, axis, wanted)
    judged = seen.tier in claim.tiers
    if not len(seen.rows):
        if len(seen.cells) and seen.cells["status"].eq("failed").all():
            return replace(verdict, reason=f"all {len(seen.cells)} cells failed")
        return verdict
    if isinstance(claim, Identity):
        verdict = judge_identity(claim, seen, rows, verdict)
    else:
        verdict = _statistical(claim, seen, rows, verdict)
    if not judged:
        reason = f"judged at tier {' and '.join(claim.tiers)}" if claim.tiers else "not judged"
        return replace(verdict, verdict="not comparable", reason=reason, p=None)
    # a claim for all is not shown by those that are there: cells that failed may be the ones
    # against it
    concerned = seen.cells
    for axis in seen.axes:
        if axis in claim.where and axis in concerned:
            concerned = _where(concerned, axis, claim.where[axis])
    lacking = int(concerned["status"].ne("done").sum())
    notes = [verdict.reason]
    if lacking and verdict.verdict != "contradicted":
        verdict = replace(verdict, verdict="undecided")
        notes.append(f"{lacking} of {len(concerned)} cells missing or failed")
    planned = target.seeds.get(seen.tier, 0)
    if verdict.n > planned and not isinstance(claim, Identity):
        notes.append(f"{verdict.n} seeds where the protocol has {planned}")
    return replace(verdict, reason="; ".join(filter(None, notes)))


def _where(rows: pd.DataFrame, axis: str, wanted: Any) -> pd.DataFrame:
    """The rows where ``axis`` has a wanted value; the words are explained in ``target.py``."""
    values = rows[axis]
    match wanted:
        case "first":
            return rows[values == values.min()]
        case "last":
            return rows[values == values.max()]
        case "later half":
            return rows[values >= values.max() / 2]
        case tuple():
            return rows[values.isin(wanted)]
    return rows[values == wanted]


# ------------------------------------------------------------------------------ statistics
def _statistical(claim: Claim, seen: Observed, rows: pd.DataFrame, verdict: Verdict) -> Verdict:
    parts = [_decide(claim, part) for part in _parts(claim, seen, rows)]
    # an arm that has no such number is none of the claim's parts; one that failed is told below
    parts = [part for part in parts if len(part.values)] or parts
    if not parts:
        return replace(verdict, verdict="undecided", reason="no rows for this claim")
    weakest = min(parts, key=lambda part: part.strength)
    n = min(len(part.values) for part in parts)
    offset, sign = weakest.shown
    low, high = sorted(offset + sign * v for v in interval(weakest.values))
    margin = None
    if isinstance(claim, Equivalence | Value):
        margin = (weakest.high - weakest.low) / 2
    return replace(
        verdict,
        ours=offset + sign * weakest.mean if len(weakest.values) else None,
        ci_low=None if math.isnan(low) else low,
        ci_high=None if math.isnan(high) else high,
        n=n,
        margin=margin,
        method=_method(claim, len(parts)),
        smallest_effect=smallest_effect(weakest.values),
        **_combine(parts, weakest, n),
    )


def _method(claim: Claim, parts: int) -> str:
    match claim:
        case Order(less=Pick(), greater=Pick()):
            what = "paired difference, Student t"
        case Order(less=less, greater=greater):
            what = f"mean against {less if isinstance(less, int | float) else greater}, Student t"
        case Trend():
            what = f"{claim.statistic} per seed, Student t"
        case Equivalence(b=Pick()):
            what = "paired difference, two one-sided t tests"
        case Equivalence():
            what = f"mean against {claim.b} +- {claim.margin}, two one-sided t tests"
        case _:
            what = "Student t against the paper's value"
    return what + (f"; each of {parts} parts, weakest shown" if parts > 1 else "")


def _combine(parts: Sequence[_Part], weakest: _Part, n: int) -> dict[str, Any]:
    """For all parts: reproduced if each is; contradicted if one is even after Bonferroni."""
    label = weakest.label and f"weakest: {weakest.label}"
    if n >= 3 and not weakest.values.std():
        label = "; ".join(filter(None, (label, "no spread between seeds")))
    if n < 3:
        return {"verdict": "undecided", "reason": "; ".join(filter(None, ("n < 3", label)))}
    against = [part for part in parts if part.verdict == "contradicted"]
    if all(part.verdict == "reproduced" for part in parts):
        ps = [part.p for part in parts if part.p is not None]
        return {"verdict": "reproduced", "reason": label, "p": max(ps, default=None)}
    if against:
        p = min(1.0, min(part.p or 0.0 for part in against) * len(parts))
        if len(parts) == 1 or p < 0.05:
            names = "; ".join(part.label for part in against[:3] if part.label)
            reason = f"against: {names}" if names else ""
            return {"verdict": "contradicted", "reason": reason, "p": p}
    good = sum(part.verdict == "reproduced" for part in parts)
    reason = f"{good} of {len(parts)} parts reproduced; {label}" if len(parts) > 1 else label
    return {"verdict": "undecided", "reason": reason, "p": weakest.p}


def _parts(claim: Claim, seen: Observed, rows: pd.DataFrame) -> Iterator[_Part]:
    if not claim.over:
        yield _part(claim, seen, rows, "")
        return
    for key, group in rows.groupby(list(claim.over), sort=False):
        label = ", ".join(f"{k}={v}" for k, v in zip(claim.over, key, strict=True))
        yield _part(claim, seen, group, label)


def _part(claim: Claim, seen: Observed, rows: pd.DataFrame, label: str) -> _Part:
    match claim:
        case Order():
            d = _difference(_pick(rows, claim.greater), _pick(rows, claim.less))
            return _Part(label, d, low=0.0, shown=_shown(claim.greater, claim.less))
        case Trend():
            return _Part(label, _trend(claim, rows), low=0.0)
        case Equivalence():
            a, b = _pick(rows, claim.a), _pick(rows, claim.b)
            if isinstance(a, pd.Series) and isinstance(b, pd.Series):
                a, b = a.align(b, join="inner")
            d = _difference(a, b)
            shown = (0.0, 1) if claim.relative else _shown(claim.a, claim.b)
            if claim.relative:
                d = d / np.abs(np.asarray(b, float))
            return _Part(label, d, low=-claim.margin, high=claim.margin, shown=shown)
        case Value():
            values = _pick(rows, claim.pick)
            assert isinstance(values, pd.Series)
            at = {k: rows[k].iloc[0] for k in seen.keys if rows[k].nunique() == 1}
            paper = paper_value(
                seen.target, claim.printed.key, {**claim.where, **at, **claim.pick.at}
            )
            if paper is None:
                raise ValueError(f"{claim.slug}: printed.csv has no {claim.printed.key} at {at}")
            slack = paper["error"] + claim.spread
            low, high = paper["value"] - slack, paper["value"] + slack
            return _Part(label, values.to_numpy(), low=low, high=high)
    raise TypeError(f"no rule for a claim of kind {claim.kind}")


def _shown(a: Pick | float, b: Pick | float) -> tuple[float, int]:
    """Against a constant the number itself is shown, not its distance to the constant."""
    if isinstance(b, int | float):
        return float(b), 1
    return (float(a), -1) if isinstance(a, int | float) else (0.0, 1)


def _pick(rows: pd.DataFrame, pick: Pick | float) -> pd.Series | float:
    """One number per seed."""
    if not isinstance(pick, Pick):
        return pick
    rows = rows[rows["metric"] == pick.metric]
    for axis, wanted in pick.at.items():
        rows = _where(rows, axis, wanted)
    if rows["seed"].duplicated().any():
        raise ValueError(f"{pick.metric} at {dict(pick.at)} is several numbers per seed")
    return rows.set_index("seed")["value"]


def _difference(a: pd.Series | float, b: pd.Series | float) -> np.ndarray:
    """``a - b`` over the seeds that both have."""
    if isinstance(a, pd.Series) and isinstance(b, pd.Series):
        a, b = a.align(b, join="inner")
    d = a - b
    return d.to_numpy(float) if isinstance(d, pd.Series) else np.array([])


def _trend(claim: Trend, rows: pd.DataFrame) -> np.ndarray:
    rows = rows[rows["metric"] == claim.metric]
    found = []
    for _, one in rows.groupby("seed", sort=False):
        x, y = one[claim.axis].to_numpy(float), one["value"].to_numpy(float)
        if len(x) < 2:
            continue  # one point has no trend
        if claim.statistic == "spearman":
            found.append(claim.sign * float(stats.spearmanr(x, y).statistic))
        else:
            found.append(claim.sign * float(stats.linregress(x, y).slope))
    return np.array(found)


def _decide(claim: Claim, part: _Part) -> _Part:
    """Where the interval lies: on the claimed side, outside it, or across its border."""
    n = len(part.values)
    if n < 3:
        return part
    mean, sd = part.mean, float(part.values.std(ddof=1))
    se = sd / n**0.5
    # an Equivalence is shown by its 90 % interval, everything else by its 95 % interval
    inside = interval(part.values, 0.90 if isinstance(claim, Equivalence) else 0.95)
    outside = interval(part.values, 0.95)
    verdict = placed(inside, outside, part.low, part.high)
    room = min(mean - part.low, part.high - mean)  # > 0 on the claimed side
    t = room / se if se else math.copysign(math.inf, room) if room else 0.0
    one_sided = float(stats.t.sf(abs(t), n - 1)) if se else (0.0 if room else 1.0)
    two = isinstance(claim, Order | Trend | Value) or verdict == "contradicted"
    return replace(part, verdict=verdict, p=min(1.0, one_sided * (2 if two else 1)), strength=t)
