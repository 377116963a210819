"""Further rows of the image targets: what a run's course, or several N together, show."""

import pandas as pd

from reproduce.neural_entropy.rows import at_last_mark

__all__ = ["quality", "saturation"]


def saturation(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """Relative change over the last quarter of each run, and what an added image adds."""
    found = []
    for (_, metric), run in rows.groupby(["cell", "metric"], sort=False):
        run = run.sort_values("updates")
        last = run.iloc[-1]
        before = run[run["updates"] == int(0.75 * last["updates"])]["value"]
        if metric in ("S_NN", "CE") and len(before):
            change = last["value"] / before.iloc[0] - 1
            found.append(last.to_dict() | {"metric": f"last_quarter_{metric}", "value": change})
    ends = at_last_mark(rows[rows["metric"] == "S_NN"])
    for _, one in ends.groupby(["data", "process", "seed"], sort=False):
        one = one.sort_values("N")
        gain = one["value"].diff() / one["N"].diff()
        found += one.assign(metric="gain_per_image", value=gain).dropna().to_dict("records")
    return pd.DataFrame(found, columns=rows.columns)


def quality(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """How much the distance falls from the least N on, and how the last step compares.

    ``late_excess`` is the gain of the last step beyond a fifth of what was gained before, where
    anything was.
    """
    found = []
    for _, one in rows[rows["metric"] == "sliced_W2"].groupby(["data", "seed"], sort=False):
        one = one.sort_values("N")
        gain = 1 - one["value"] / one["value"].iloc[0]
        found += one.assign(metric="relative_gain", value=gain).iloc[1:].to_dict("records")
        if len(one) > 2 and gain.iloc[-2] > 0:
            excess = gain.iloc[-1] - 1.2 * gain.iloc[-2]
            found.append(one.iloc[-1].to_dict() | {"metric": "late_excess", "value": excess})
    return pd.DataFrame(found, columns=rows.columns)
