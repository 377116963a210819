"""Further rows of eiw-quality: each arm's distance beside its controls' of the same seed."""

import pandas as pd

__all__ = ["over_controls"]

_FD = "fd_classifier"


def over_controls(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """``excess_identity`` and ``excess_random``: ``fd_classifier`` over that of the vanilla order,
    and of a random one, less 1."""
    distances = rows[rows["metric"] == _FD]
    found = []
    for control, metric in (("identity", "excess_identity"), ("random-0", "excess_random")):
        base = distances.loc[distances["mode"] == control, ["data", "seed", "value"]]
        both = distances[distances["mode"] != control].merge(
            base, on=["data", "seed"], suffixes=("", "_base")
        )
        value = both["value"] / both["value_base"] - 1
        found.append(both.assign(metric=metric, value=value, cell=""))
    return pd.concat(found).reindex(columns=rows.columns)
