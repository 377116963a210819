"""Observations of a target in other shapes, for those who derive further rows from them."""

import pandas as pd

__all__ = ["as_rows", "at_last_mark", "by_mark"]


def at_last_mark(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows at each cell's last update."""
    return rows[rows["updates"] == rows.groupby("cell")["updates"].transform("max")]


def by_mark(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a cell and mark, its metrics as columns beside its axes."""
    at = [c for c in rows.columns if c not in ("metric", "value")]
    wide = rows.pivot_table(index=at, columns="metric", values="value", sort=False)
    return wide.reset_index()


def as_rows(
    wide: pd.DataFrame, metric: str, values: pd.Series | float, columns: pd.Index
) -> pd.DataFrame:
    """``values`` as rows of a metric, one for each row of ``wide`` that has any."""
    return wide.assign(metric=metric, value=values).dropna(subset="value").reindex(columns=columns)
