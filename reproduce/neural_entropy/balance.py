"""Further rows of ne-bound and ne-balance: what two measures of one run say together."""

import numpy as np
import pandas as pd
from scipy import stats

__all__ = ["bounds", "shares"]


def _by_mark(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a cell and mark, its metrics as columns beside its axes."""
    at = [c for c in rows.columns if c not in ("metric", "value")]
    wide = rows.pivot_table(index=at, columns="metric", values="value", sort=False)
    return wide.reset_index()


def _long(wide: pd.DataFrame, metric: str, values: pd.Series, columns: pd.Index) -> pd.DataFrame:
    return wide.assign(metric=metric, value=values).dropna(subset="value").reindex(columns=columns)


def bounds(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """The bound, and the difference of its two estimators, in standard errors."""
    wide, found = _by_mark(rows), []
    if "KL_bound" in wide:
        over = wide["KL_bound"] / wide["KL_bound_se"]
        found.append(_long(wide, "bound_over_error", over, rows.columns))
    if {"KL_bound", "L_EM"} <= set(wide):
        apart = wide["KL_bound"] - wide["L_EM"] - wide["KL_start"]
        error = np.hypot(wide["KL_bound_se"], wide["L_EM_se"])
        found.append(_long(wide, "disagreement", apart / error, rows.columns))
    return pd.concat(found) if found else rows.head(0)


def shares(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """The cross term in units of S_tot, and how missing entropy ranks with the bound."""
    wide = _by_mark(rows)
    if "missing" not in wide:
        return rows.head(0)
    total = wide["missing"] + wide["S_NN_exact"]
    found = [_long(wide, "cross_share", wide["cross"] / total, rows.columns)]
    if "KL_bound" in wide:
        for _, run in wide.groupby("cell", sort=False):
            if len(run) > 2:
                rank = stats.spearmanr(run["missing"], run["KL_bound"]).statistic
                last = run.sort_values("updates").tail(1)
                found.append(_long(last, "rank_correlation", rank, rows.columns))
    return pd.concat(found)
