"""Identities: mathematical facts that every row must obey within its tolerance."""

import math
from dataclasses import replace
from typing import Any

import pandas as pd

from reproduce.tables import Observed, paper_value
from reproduce.target import Identity, Printed
from reproduce.verdict import Verdict

__all__ = ["judge_identity"]


def judge_identity(
    claim: Identity, seen: Observed, rows: pd.DataFrame, verdict: Verdict
) -> Verdict:
    """Every row within its tolerance; reports the row that comes nearest to breaking it."""
    keys = [*seen.keys, "seed"]
    mine = rows[rows["metric"] == claim.metric]
    errors = None
    if claim.error_metric:
        wide = rows[rows["metric"] == claim.error_metric].set_index(keys)["value"]
        errors = wide.to_dict()
    worst, broken = None, []
    distinct = set()  # one number repeated over seeds or marks is one piece of evidence
    for row in mine.to_dict("records"):
        at = {k: row[k] for k in seen.keys}
        low, high = _bounds(claim, seen, at, row, errors, keys)
        if low is None or high is None:
            continue
        value = row["value"]
        distinct.add((tuple(row[axis] for axis in seen.axes), value))
        room = min(value - low, high - value)
        scale = (high - low) / 2 if math.isfinite(high - low) else 1.0
        ratio = room / scale if scale else (math.inf if room >= 0 else -math.inf)
        label = ", ".join(f"{k}={v}" for k, v in at.items())
        if not room >= 0:
            broken.append(label)
        if worst is None or not ratio >= worst[0]:
            worst = (ratio, value, low, high, label)
    if worst is None:
        return replace(verdict, verdict="undecided", reason="nothing to compare")
    _, value, low, high, label = worst
    finite = math.isfinite(low) and math.isfinite(high)
    # these keys hold independent reference values, all others what the paper prints
    known = ("exact/", "quadrature/")
    printed = isinstance(claim.equals, Printed) and not claim.equals.key.startswith(known)
    return replace(
        verdict,
        ours=value,
        n=len(distinct),
        margin=(high - low) / 2 if finite else None,
        paper_value=verdict.paper_value or (f"{(low + high) / 2:.6g}" if printed else ""),
        method="every row within its tolerance",
        verdict="contradicted" if broken else "reproduced",
        reason=f"broken at {'; '.join(broken[:3])}" if broken else f"tightest at {label}",
    )


def _bounds(
    claim: Identity,
    seen: Observed,
    at: dict[str, Any],
    row: dict[str, Any],
    errors: dict[Any, float] | None,
    keys: list[str],
) -> tuple[float | None, float | None]:
    if claim.equals is None:
        low = -math.inf if claim.low is None else claim.low
        return low, math.inf if claim.high is None else claim.high
    slack = claim.atol
    if isinstance(claim.equals, Printed):
        paper = paper_value(seen.target, claim.equals.key, at)
        if paper is None:
            return None, None
        centre, slack = paper["value"], slack + paper["error"]
    else:
        centre = claim.equals
    slack += claim.rtol * abs(centre)
    if errors is not None:
        slack += claim.errors * errors[tuple(row[k] for k in keys)]
    return centre - slack, centre + slack
