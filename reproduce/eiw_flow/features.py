"""Further rows of the feature targets: the weakest split or stage, gains over vanilla."""

import pandas as pd

from reproduce.eiw_flow.paired import beside

__all__ = ["gains", "gaps", "growth"]


def _reduced(rows: pd.DataFrame, names: list[str], metric: str, how: str) -> pd.DataFrame:
    """One row a cell: the least or greatest of several metrics."""
    some = rows[rows["metric"].isin(names)]
    by = [c for c in rows.columns if c not in ("metric", "value")]
    found = some.groupby(by, sort=False, dropna=False)["value"].agg(how).reset_index()
    return found.assign(metric=metric).reindex(columns=rows.columns)


def gaps(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """The least gap over the splits, and the gain of R2E2 at the first over the vanilla flow's."""
    found = [
        _reduced(rows, ["E2_gap_1", "E2_gap_2"], "least_gap", "min"),
        _reduced(rows, ["E2_gap_1_std", "E2_gap_2_std"], "least_gap_std", "min"),
        gains(rows),
    ]
    return pd.concat(found).reindex(columns=rows.columns)


def gains(rows: pd.DataFrame) -> pd.DataFrame:
    """``gain``: percent by which R2E2 at the first split is more than the vanilla flow's."""
    first = rows[rows["metric"] == "R2E2_1"]
    vanilla = first["mode"] == "identity"
    both = beside(first[~vanilla], first[vanilla], ["data", "seed"])
    gain = 100 * (both["value"] - both["control"]) / both["control"].abs()
    return both.assign(metric="gain", value=gain).reindex(columns=rows.columns)


def growth(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """The least growth from one stage to the next, raw and standardised, and the highest stage.

    By nearest neighbours: of a few hundred images, spacings cannot tell a normal element from one
    that is a little less than normal.
    """
    found = []
    by = [c for c in rows.columns if c not in ("metric", "value")]
    for tag in ("", "_std"):
        stages = rows[rows["metric"].str.fullmatch(rf"E2_stage\d{tag}_knn")]
        wide = stages.pivot_table(index=by, columns="metric", values="value", sort=False)
        wide = wide.reindex(sorted(wide.columns), axis=1)
        least = wide.diff(axis=1).min(axis=1).rename("value").reset_index()
        found.append(least.assign(metric=f"least_growth{tag}"))
    names = [
        m for m in rows["metric"].unique() if m.startswith("E2_stage") and m.endswith("_std_knn")
    ]
    found.append(_reduced(rows, names, "most_std", "max"))
    return pd.concat(found).dropna(subset="value").reindex(columns=rows.columns)
