"""Records -> observations -> the two CSV tables of a target. Pure functions of what is on disk."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from reproduce.cells import Cell, expand
from reproduce.papers import PAPERS, printed, seeds
from reproduce.records import CorruptRecord, Store, fit_key, read_record, write_atomically
from reproduce.statistics import interval, placed
from reproduce.target import Evaluator, Target, named

__all__ = ["Observed", "as_of_today", "observe", "paper_value", "to_csv"]


@dataclass(frozen=True)
class Observed:
    """What the records of a target hold.

    Attributes:
        rows: one row per cell, index value and metric: axes, seed, [index], metric, value; what
            was derived from several cells names none.
        cells: one row per cell: cell, axes, seed, status, error, wall_s.
        stale: a sentence per record that the target no longer produces, or that an older
            evaluator or model wrote.
    """

    target: Target
    tier: str
    axes: tuple[str, ...]
    rows: pd.DataFrame
    cells: pd.DataFrame
    stale: tuple[str, ...]

    @property
    def keys(self) -> list[str]:
        """The columns that tell arms and measuring points apart."""
        return [*self.axes, *([self.target.index] if self.target.index else [])]


def observe(target: Target, tier: str, store: Store) -> Observed:
    """Read the records of the target's cells: its own seeds, and any further ones that are there.

    A cell without a record is "missing", one that failed is a row with its error.
    """
    planned = seeds(target, tier)
    rows, cells, stale, names = [], [], [], set()
    asked = expand(target, tier, len(PAPERS[target.paper][1]), store.changes)
    for cell in asked:
        status, error, record = _state(target, cell, store)
        names.add(cell.name)
        if cell.seed not in planned and status == "missing":
            continue
        if record is not None and status == "done" and (old := _old(target, cell, record)):
            stale.append(f"{cell.name}: has no {', '.join(old)}: run the target again")
        cells.append(
            {
                "cell": cell.name,
                **cell.axes,
                "seed": cell.seed,
                "status": status,
                "error": error,
                "wall_s": (record or {}).get("wall_s", 0.0),
            }
        )
        if record is not None and status == "done":
            rows += _observations(target, cell, record)
    stale += _orphans(target, store, names)
    axes = tuple(dict.fromkeys(k for c in asked for k in c.axes))
    columns = [*axes, "seed", *([target.index] if target.index else []), "metric", "value", "cell"]
    frame = pd.DataFrame(rows, columns=columns).astype({"value": float})
    if target.derive and len(frame):
        more = named(target.derive)(frame, tier)
        more = more[more["metric"].isin(list(target.metrics))].reindex(columns=columns)
        frame = pd.concat([frame, more], ignore_index=True)
    about = pd.DataFrame(cells, columns=["cell", *axes, "seed", "status", "error", "wall_s"])
    return Observed(target, tier, axes, frame, about, tuple(stale))


def _state(target: Target, cell: Cell, store: Store) -> tuple[str, str, dict[str, Any] | None]:
    try:
        record = store.read(cell)
    except CorruptRecord as error:
        return "missing", f"{error}: run the target again", None
    if record is None or target.id not in record["targets"]:  # made for others: not yet taken up
        return "missing", "", None
    absent = [e.key for e in target.measured(cell) if _held(record, e) is None]
    if not absent:
        return "done", "", record  # whatever else may have failed there
    if record["status"] != "done":
        return "failed", record.get("error", ""), record
    return "missing", f"has no {', '.join(absent)}: run the target again", record


def _held(record: Mapping[str, Any], evaluator: Evaluator) -> str | None:
    """The key of an evaluator's numbers in a record, of today's version or an older one."""
    both = record["metrics"].keys() & record["curves"].keys()
    found = [k for k in both if k.split("@")[0] == evaluator.name]
    return max(found, key=lambda k: int(k.split("@")[1]), default=None)


def as_of_today(target: Target, record: dict[str, Any]) -> dict[str, Any]:
    """A record with older numbers under the keys of today's evaluators, for those who draw it."""
    held = ((e.key, _held(record, e)) for e in target.evaluators)
    curves = {key: record["curves"][old] for key, old in held if old}
    return {**record, "curves": {**record["curves"], **curves}}


def _old(target: Target, cell: Cell, record: Mapping[str, Any]) -> list[str]:
    """What a record holds in an older version only: it is shown, and called stale."""
    keys = [e.key for e in target.measured(cell) if _held(record, e) != e.key]
    fit = fit_key(cell.paper)
    return keys if fit in record["metrics"] else [fit, *keys]


def _orphans(target: Target, store: Store, names: set[str]) -> list[str]:
    """Records that name this target although none of its cells has their config any more."""
    found = []
    for path in sorted((store.root / "records" / target.paper).glob("*.json")):
        if path.stem in names:
            continue
        try:
            record = read_record(path)
        except CorruptRecord:
            continue
        if record and target.id in record["targets"]:
            found.append(f"{path.stem}: the target no longer asks for this config")
    return found


def _observations(target: Target, cell: Cell, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    base = {**cell.axes, "seed": cell.seed, "cell": cell.name}
    rows = []
    for evaluator in target.measured(cell):
        curves = record["curves"][_held(record, evaluator)]
        for i, update in enumerate(curves["updates"]):
            if not target.index and i + 1 < len(curves["updates"]):
                continue  # a target without index asks about the trained model
            at = {target.index: update} if target.index else {}
            for metric in target.metrics:
                value = curves.get(metric, [None] * (i + 1))[i]
                if isinstance(value, int | float):
                    rows.append({**base, **at, "metric": metric, "value": value})
    return rows


# ------------------------------------------------------------------------------- tables
def paper_value(target: Target, key: str, at: Mapping[str, Any]) -> dict[str, Any] | None:
    """The printed row with this key whose axes all have the values of ``at``."""
    for row in printed(target.paper):
        if row["key"] == key and all(str(at.get(k)) == str(v) for k, v in row["at"].items()):
            return row
    return None


def cells_table(seen: Observed) -> pd.DataFrame:
    """One row per cell and metric, failures and missing cells included."""
    done = seen.rows.merge(seen.cells[["cell", "status", "error"]], on="cell", how="left")
    rest = seen.cells[seen.cells["status"] != "done"]
    table = pd.concat([done, rest], ignore_index=True) if len(rest) else done
    table["unit"] = table["metric"].map(seen.target.metrics)
    columns = ["cell", *seen.axes, "seed"]
    columns += [seen.target.index] if seen.target.index else []
    return table[[*columns, "status", "metric", "unit", "value", "error"]]


_SUMMARY = (
    "metric unit mean ci_low ci_high sd n n_failed paper paper_source paper_error note".split()
)


def summary_table(seen: Observed) -> pd.DataFrame:
    """One row per arm, index value and metric: mean over seeds, interval, the paper's number."""
    target, rows = seen.target, []
    columns = [*seen.keys, *_SUMMARY]
    if not seen.axes:  # a target that is not run
        return pd.DataFrame(columns=columns)
    groups = seen.rows.groupby([*seen.keys, "metric"], sort=False, dropna=False)["value"]
    bad = seen.cells[seen.cells["status"] == "failed"].groupby([*seen.axes], sort=False).size()
    for key, values in groups:
        *at, metric = key
        where = dict(zip(seen.keys, at, strict=True))
        one = len(values) > 1 and values.nunique() == 1  # the same for every seed by construction
        low, high = (math.nan, math.nan) if one else interval(values)
        arm = tuple(where[a] for a in seen.axes)
        paper = paper_value(target, target.printed.get(metric, ""), where)
        comparable = seen.tier == "paper" or metric in target.comparable
        notes = ["the same for every seed"] if one else []
        if paper and not comparable:
            notes.insert(0, "not comparable")
        elif paper and low < high:
            least, most = paper["value"] - paper["error"], paper["value"] + paper["error"]
            notes.insert(0, placed((low, high), (low, high), least, most))  # as a Value claim
        rows.append(
            {
                **where,
                "metric": metric,
                "unit": target.metrics[metric],
                "mean": values.mean(),
                "ci_low": low,
                "ci_high": high,
                "sd": values.std(ddof=1) if len(values) > 1 else math.nan,
                "n": len(values),
                "n_failed": int(bad.get(arm if len(arm) > 1 else arm[0], 0)) if len(bad) else 0,
                "paper": paper["value"] if paper else math.nan,
                "paper_source": paper["source"] if paper else "",
                "paper_error": paper["error"] if paper else math.nan,
                "note": "; ".join(notes),
            }
        )
    for arm, count in bad.items():  # an arm of which nothing is left is a row too
        where = dict(zip(seen.axes, arm if isinstance(arm, tuple) else (arm,), strict=True))
        if not any(all(row[k] == v for k, v in where.items()) for row in rows):
            rows.append({**where, "n": 0, "n_failed": int(count), "note": "all failed"})
    return pd.DataFrame(rows, columns=columns)


def to_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table atomically, nine significant digits, empty cells for what is not there."""
    write_atomically(path, table.to_csv(index=False, float_format="%.9g", lineterminator="\n"))
