"""Further rows of SimFlow's targets: against a control of the same seed, over variants."""

import pandas as pd
from scipy.stats import spearmanr

__all__ = ["guided", "ladder", "over_fixed"]


def _lost(rows: pd.DataFrame, axis: str, control: str, by: list[str]) -> pd.DataFrame:
    """What each arm's PSNR has less than the control's of the same seed."""
    some = rows[rows["metric"] == "psnr"]
    best = some[some[axis] == control][[*by, "value"]].rename(columns={"value": "control"})
    both = some[some[axis] != control].merge(best, on=by)
    return both.assign(metric="psnr_lost", value=both["control"] - both["value"], cell="")


def _beyond(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    samples, copies = (
        rows[rows["metric"] == metric] for metric in ("gfd_classifier", "rfd_classifier")
    )
    both = samples.merge(copies[[*by, "value"]], on=by, suffixes=("", "_copies"))
    gap = both["value"] - both["value_copies"]
    return both.assign(metric="beyond_reconstruction", value=gap, cell="")


def ladder(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """PSNR lost against frozen/learnable; PSNR's rank correlation with gfd over the variants; and
    ``beyond_reconstruction``, what samples are further away than reconstructions."""
    by = ["data", "seed"]
    found = [_lost(rows, "variant", "frozen/learnable", by), _beyond(rows, [*by, "variant"])]
    wide = rows[rows["metric"].isin(["psnr", "gfd_classifier"])].pivot_table(
        index=[*by, "variant"], columns="metric", values="value"
    )
    if {"psnr", "gfd_classifier"} <= set(wide.columns):
        for (data, seed), one in wide.dropna().groupby(by):
            if len(one) > 2:
                value = spearmanr(one["psnr"], one["gfd_classifier"]).statistic
                row = {"data": data, "seed": seed, "variant": "all", "cell": ""}
                found.append(
                    pd.DataFrame([{**row, "metric": "psnr_goes_with_gfd", "value": value}])
                )
    return pd.concat(found).reindex(columns=rows.columns)


def guided(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """``gfd_guided``: of a seed at the weight of the score rule that is best for the other seeds.

    Chosen on the seed itself the best of five would look good by chance; a single seed has none.
    """
    some = rows[rows["metric"].str.fullmatch(r"gfd_classifier_score_deep_[\d.]+")]
    found = []
    for _, one in some.groupby("data"):
        table = one.pivot(index="seed", columns="metric", values="value").dropna(axis="columns")
        for seed in table.index if table.size and len(table) > 1 else ():
            best = table.drop(seed).mean().idxmin()
            chosen = one[(one["seed"] == seed) & (one["metric"] == best)]
            found.append(chosen.assign(metric="gfd_guided", cell=""))
    return pd.concat(found or [some[:0]]).reindex(columns=rows.columns)


def over_fixed(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """PSNR lost against the arm of fixed variance, trained as long."""
    return _lost(rows, "variance", "fixed", ["seed", "updates"]).reindex(columns=rows.columns)
