"""Further rows of ne-bound and ne-balance: what two measures of one run say together."""

import numpy as np
import pandas as pd
from scipy import stats

from reproduce.neural_entropy.rows import as_rows, by_mark

__all__ = ["bounds", "shares"]


def bounds(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """The bound, and the difference of its two estimators, in standard errors."""
    wide, found = by_mark(rows), []
    if "KL_bound" in wide:
        over = wide["KL_bound"] / wide["KL_bound_se"]
        found.append(as_rows(wide, "bound_over_error", over, rows.columns))
    if {"KL_bound", "L_EM"} <= set(wide):
        apart = wide["KL_bound"] - wide["L_EM"] - wide["KL_start"]
        error = np.hypot(wide["KL_bound_se"], wide["L_EM_se"])
        found.append(as_rows(wide, "disagreement", apart / error, rows.columns))
    return pd.concat(found) if found else rows.head(0)


def shares(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """The cross term in units of S_tot, and how missing entropy ranks with the bound."""
    wide = by_mark(rows)
    if "missing" not in wide:
        return rows.head(0)
    total = wide["missing"] + wide["S_NN_exact"]
    found = [as_rows(wide, "cross_share", wide["cross"] / total, rows.columns)]
    if "KL_bound" in wide:
        for _, run in wide.groupby("cell", sort=False):
            if len(run) > 2:
                rank = stats.spearmanr(run["missing"], run["KL_bound"]).statistic
                last = run.sort_values("updates").tail(1)
                found.append(as_rows(last, "rank_correlation", rank, rows.columns))
    return pd.concat(found)
