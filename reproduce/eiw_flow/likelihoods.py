"""Further rows of the likelihood targets: each arm beside its controls of the same seed."""

import pandas as pd

from reproduce.eiw_flow.arms import DATA
from reproduce.eiw_flow.features import gains
from reproduce.eiw_flow.paired import beside

__all__ = ["against_controls", "best", "difficulty", "stability"]

BITS = "bpd_iw16"


def _less(rows: pd.DataFrame, base: pd.DataFrame, by: list[str], metric: str) -> pd.DataFrame:
    """``rows`` less what ``base`` has where ``by`` agrees, as rows of ``metric``."""
    both = beside(rows, base, by)
    found = both.assign(metric=metric, value=both["value"] - both["control"])
    return found.reindex(columns=rows.columns)


def _shared(rows: pd.DataFrame) -> list[str]:
    """The axes that a control shares with what it controls: all but the order itself."""
    return [c for c in rows.columns if c not in ("mode", "metric", "value", "cell")]


def against_controls(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """``over_identity`` and ``over_random``: bits more than the vanilla order, and than the mean
    of the random ones; ``order_entropy`` and ``order_shape``: the mean over the splits, and with
    ``_over_random`` what it is more than that of the random orders, which training moves too."""
    bits, by = rows[rows["metric"] == BITS], _shared(rows)
    others = bits[bits["mode"] != "identity"]
    found = [_less(others, bits[bits["mode"] == "identity"], by, "over_identity")]
    found.append(_less(bits, _mean(_random(bits), by), by, "over_random"))
    for name in ("order_entropy", "order_shape"):
        splits = rows[rows["metric"].str.fullmatch(rf"{name}_\d")]
        mean = splits.groupby([*by, "mode", "cell"], sort=False, dropna=False)["value"].mean()
        mean = mean.reset_index().assign(metric=name)
        found += [mean, _less(mean, _mean(_random(mean), by), by, f"{name}_over_random")]
    return pd.concat(found).reindex(columns=rows.columns)


def _random(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["mode"].str.startswith("random")]


def _mean(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    return rows.groupby(by, dropna=False)["value"].mean().reset_index()


def difficulty(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """``difficulty`` of each data set, the vanilla flow's bits a bit of a pixel, and
    ``gain_rise``: rank correlation of the gain with it, one number a seed. Independent pixels,
    which cost many bits and hold no structure, are not in it."""
    found = pd.concat([against_controls(rows, tier), gains(rows)])
    vanilla = rows[(rows["metric"] == BITS) & (rows["mode"] == "identity")]
    hard = vanilla.assign(metric="difficulty", cell="")
    hard["value"] /= hard["data"].map(lambda d: DATA[d][1].get("bits", 8)).astype(float)
    fewer = found[(found["metric"] == "over_identity") & (found["mode"] == "eiw")]
    fewer = fewer[fewer["data"] != "noise"]
    both = fewer.merge(
        hard[["data", "seed", "value"]], on=["data", "seed"], suffixes=("", "_hard")
    )
    rises = []
    for _, one in both.groupby("seed", sort=False):
        if len(one) > 2:
            rise = (-one["value"]).corr(one["value_hard"], method="spearman")
            row = one.iloc[-1].to_dict() | {"metric": "gain_rise", "value": rise, "cell": ""}
            rises.append(row)
    rises = pd.DataFrame(rises, columns=rows.columns)
    return pd.concat([found, hard, rises]).dropna(subset="value").reindex(columns=rows.columns)


def best(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """``excess``: bits more than at the paper's best weight of the same run."""
    bits = rows[rows["metric"] == BITS]
    paper = bits["backbone"].map({"NF": 1e-3, "CNF": 1e-4})
    by = [c for c in bits.columns if c not in ("lam", "metric", "value", "cell")]
    return _less(bits[bits["lam"] != paper], bits[bits["lam"] == paper], by, "excess")


def stability(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """``over_random`` at the last mark, ``harm`` of an order that goes on changing, and
    ``jumps``: rank correlation, over the marks, of channels that crossed with the rise of bits
    over those of random orders, which leaves out what training gains under any order."""
    last = rows[rows["updates"] == rows.groupby("data")["updates"].transform("max")]
    bits = last[last["metric"] == BITS]
    by = ["data", "seed"]
    chance = _mean(bits[bits["order"] == "random"], by)
    learned = bits[bits["order"] == "eiw"]
    found = [_less(learned, chance, by, "over_random")]
    at_start = learned[learned["frozen_after"] == "start"]
    found.append(_less(learned[learned["frozen_after"] != "start"], at_start, by, "harm"))
    random = rows[(rows["metric"] == BITS) & (rows["order"] == "random")]
    control = random.pivot_table(index="updates", columns=by, values="value")
    for _, one in rows[rows["order"] == "eiw"].groupby("cell", sort=False):
        wide = one.pivot_table(index="updates", columns="metric", values="value")
        crossed = wide.filter(like="crossed_").sum(axis=1).diff()
        change = (wide[BITS] - control.get(tuple(one[by].iloc[0]), float("nan"))).diff()
        if crossed.nunique() > 1:
            value = crossed.corr(change, method="spearman")
            last_row = one[one["updates"] == one["updates"].max()].iloc[0].to_dict()
            row = last_row | {"metric": "jumps", "value": value, "cell": ""}
            found.append(pd.DataFrame([row]))
    return pd.concat(found).dropna(subset="value").reindex(columns=rows.columns)
