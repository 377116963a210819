"""Made-up numbers for the targets of EIW-Flow: what each arm could have measured, and no more."""

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import pandas as pd

from reproduce.cells import Cell, expand
from reproduce.eiw_flow import (
    conditions,
    cost,
    density,
    entropy,
    growth,
    invertibility,
    order,
    stability,
    sweeps,
)
from reproduce.tables import Observed
from reproduce.target import Target, named

FILES = (density, entropy, cost, sweeps, growth, invertibility, order, conditions, stability)
TARGETS = {t.id: t for file in FILES for t in file.TARGETS if not t.not_run}

# what several cells or marks together show, which no evaluator gives
DERIVED = {
    "over_identity", "over_random", "order_entropy", "order_entropy_over_random", "order_shape",
    "order_shape_over_random", "difficulty", "gain_rise", "excess", "harm", "jumps", "least_gap",
    "least_gap_std", "gain", "least_growth", "least_growth_std", "most_std",
}  # fmt: skip
_GUIDED = ("kl_", "H_Q_", "Q_P_", "logits_moved_", "mass_")
_LEARNED = ("eiw", "eiw_snapshot", "param", "ste")

Number = Callable[[str, dict[str, Any]], float | None]


@cache
def _cells(name: str, tier: str) -> list[tuple[Cell, str]]:
    """The cells of a target with their names, which are hashes of whole configs."""
    return [(cell, cell.name) for cell in expand(TARGETS[name], tier)]


def _has(cell: Cell, metric: str) -> bool:
    """Whether the arm can have the metric: no mass without a guider, no rank of the vanilla."""
    net = cell.config["model"]["init_args"]["net"]["init_args"]
    if metric.startswith(_GUIDED):
        return net["order"] in _LEARNED
    return True


def made_up(target: Target, tier: str, number: Number | None = None) -> pd.DataFrame:
    """Rows of all cells at all marks: ``number(metric, at)`` where it has one, else in (1, 2).

    ``at`` holds the cell's axes, its seed, and the index if the target has one.
    """
    rng, rows = random.Random(0), []
    for cell, name in _cells(target.id, tier):
        for update in cell.updates if target.index else cell.updates[-1:]:
            at = {**cell.axes, "seed": cell.seed}
            at |= {target.index: update} if target.index else {}
            for metric in target.metrics:
                if metric in DERIVED or not _has(cell, metric):
                    continue
                value = number(metric, at) if number else None
                if value is None:  # a low percentile is below its median, a high one above
                    value = rng.uniform(1, 2) * {"p10": 0.25, "p90": 4.0}.get(metric[-6:-3], 1.0)
                rows.append({**at, "metric": metric, "value": float(value), "cell": name})
    return pd.DataFrame(rows)


def derived(target: Target, rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """The rows and what is derived from them, as ``observe`` has it."""
    if not target.derive or rows.empty:
        return rows
    more = named(target.derive)(rows, tier)
    more = more[more["metric"].isin(list(target.metrics))].reindex(columns=rows.columns)
    return pd.concat([rows, more], ignore_index=True)


def observed(target: Target, tier: str, rows: pd.DataFrame) -> Observed:
    """What ``observe`` would make of these rows of the target's own cells, all done."""
    cells = [
        {"cell": name, **cell.axes, "seed": cell.seed, "status": "done", "error": ""}
        for cell, name in _cells(target.id, tier)
    ]
    axes = tuple(dict.fromkeys(k for arm in target.arms(tier) for k in arm.axes))
    return Observed(target, tier, axes, derived(target, rows, tier), pd.DataFrame(cells), ())
