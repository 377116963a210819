"""Every target judged on made-up numbers: nothing raises, and each claim can be decided."""

import importlib

import numpy as np
import pandas as pd
import pytest

from reproduce.cells import expand
from reproduce.claims import judge
from reproduce.papers import find
from reproduce.tables import Observed, summary_table
from reproduce.target import TIERS, Target


def made_up(target: Target, tier: str, metrics: set[str]) -> pd.DataFrame:
    """Positive numbers for these metrics, at every mark of every cell."""
    rng = np.random.default_rng(0)
    rows = [
        {**cell.axes, "seed": cell.seed, "cell": cell.name, "metric": metric,
         "value": rng.uniform(1, 2)} | ({target.index: update} if target.index else {})
        for cell in expand(target, tier)
        for update in (cell.updates if target.index else cell.updates[-1:])
        for metric in target.metrics if metric in metrics
    ]  # fmt: skip
    return pd.DataFrame(rows)


def derived(target: Target, rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    if not target.derive:
        return rows.head(0)
    module, name = target.derive.split(":")
    more = getattr(importlib.import_module(module), name)(rows, tier)
    return more[more["metric"].isin(list(target.metrics))]


@pytest.mark.parametrize("tier", [t for t in TIERS if t != "smoke"])
@pytest.mark.parametrize("target", find(["neural-entropy"]), ids=lambda t: t.id)
def test_every_claim_can_be_decided_at_its_tiers(target, tier):
    made = set(derived(target, made_up(target, tier, set(target.metrics)), tier)["metric"])
    rows = made_up(target, tier, set(target.metrics) - made)
    rows = pd.concat([rows, derived(target, rows, tier)], ignore_index=True)
    cells = [
        {"cell": c.name, **c.axes, "seed": c.seed, "status": "done", "error": ""}
        for c in expand(target, tier)
    ]
    axes = tuple(dict.fromkeys(k for c in expand(target, tier) for k in c.axes))
    seen = Observed(target, tier, axes, rows, pd.DataFrame(cells), ())
    assert set(summary_table(seen)["metric"]) == set(rows["metric"])
    claims = {f"{target.id}/{c.slug}": c for c in target.claims}
    for verdict in judge(seen):
        if tier in claims[verdict.claim].tiers:
            assert verdict.n, verdict  # seeds, or rows of an identity
