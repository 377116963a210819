"""Further rows of eiw-quality: each arm's distance beside its controls' of the same seed."""

import pandas as pd

from reproduce.eiw_flow.paired import beside

__all__ = ["over_controls"]

_FD = "fd_classifier"


def over_controls(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """``excess_identity`` and ``excess_random``: ``fd_classifier`` over that of the vanilla order,
    and of a random one, less 1."""
    distances = rows[rows["metric"] == _FD]
    found = []
    for control, metric in (("identity", "excess_identity"), ("random-0", "excess_random")):
        own = distances["mode"] == control
        both = beside(distances[~own], distances[own], ["data", "seed"])
        found.append(both.assign(metric=metric, value=both["value"] / both["control"] - 1))
    return pd.concat(found).reindex(columns=rows.columns)
