"""Further rows of ne-uncertainty: what one process shows beside the others of its mixture."""

import pandas as pd

from reproduce.neural_entropy.rows import as_rows, by_mark

__all__ = ["BUDGET", "comparisons"]

BUDGET = {"smoke": 300, "small": 2000, "gpu": 2560, "paper": 51_200}  # updates


def comparisons(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """Clocks against VP's own, kappa against the best, and the KL bound at equal updates."""
    wide, found = by_mark(rows), []
    if "S_endless" in wide:
        own = (wide["process"] == "vp") & (wide["schedule"] == "linear")
        total = _beside(wide, own, "S_endless", ["mixture", "kappa", "seed"])
        found.append(as_rows(wide, "retimed", wide["S_endless"] / total - 1, rows.columns))
    if "KL_eq" in wide:
        best = (wide["kappa"] ** 2 - wide["best_kappa2"]).abs() < 1e-3
        least = _beside(wide, best, "KL_eq", ["mixture", "seed"])
        above = wide["KL_eq"] - least
        found.append(as_rows(wide, "KL_eq_above_best", above, rows.columns))
    if "KL_bound" in wide:
        at = wide[(wide["network"] == "mlp") & (wide["updates"] == BUDGET[tier])]
        found.append(as_rows(at, "KL_bound_at_budget", at["KL_bound"], rows.columns))
    return pd.concat(found) if found else rows.head(0)


def _beside(wide: pd.DataFrame, reference: pd.Series, metric: str, on: list[str]) -> pd.Series:
    """For each row, the metric of the reference row that agrees with it ``on`` these axes."""
    known = wide[reference].dropna(subset=metric).groupby(on)[metric].first()
    return wide.join(known.rename("reference"), on=on)["reference"]
