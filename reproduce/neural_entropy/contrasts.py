"""Further rows of the controls: what several arms of one seed show beside each other."""

import numpy as np
import pandas as pd

from reproduce.neural_entropy.rows import at_last_mark

__all__ = ["architecture", "dilation", "memorisation"]


def architecture(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """MLPs: their plateau and its distance from the widest's. U-Nets: gains and effects."""
    stored = rows[(rows["net"] == "MLP") & (rows["metric"] == "stored")]
    late = stored[stored["updates"] >= stored.groupby("cell")["updates"].transform("max") / 2]
    plateau = at_last_mark(stored).assign(metric="plateau")
    plateau["value"] = late.groupby("cell")["value"].mean().reindex(plateau["cell"]).to_numpy()
    widest = (plateau["width"] == plateau["width"].max()) & (plateau["variant"] == "two layers")
    base = plateau[widest].set_index("seed")["value"]
    rest = plateau[~widest].assign(metric="plateau_difference", cell="")
    rest["value"] -= rest["seed"].map(base)

    nets = at_last_mark(rows[(rows["net"] == "U-Net") & (rows["metric"] == "S_NN")])
    plain = nets[nets["variant"] == "attention"].sort_values("width")
    gain = plain.assign(metric="gain", cell="", value=plain.groupby("seed")["value"].diff())
    # the sign of each: what is there, less what is not
    effects = [
        _difference(plain, nets, "no attention").assign(metric="attention_effect"),
        _difference(plain, nets, "dropout 0.2").assign(metric="dropout_effect"),
    ]
    effects[1]["value"] *= -1
    found = pd.concat([plateau, rest, gain, *effects])
    return found.dropna(subset="value").reindex(columns=rows.columns)


def _difference(plain: pd.DataFrame, nets: pd.DataFrame, variant: str) -> pd.DataFrame:
    """The plain networks' S_NN less that of a variant of the same width and seed."""
    other = nets.loc[nets["variant"] == variant, ["seed", "width", "value"]]
    both = plain.merge(other, on=["seed", "width"], suffixes=("", "_other"))
    return both.assign(value=both["value"] - both["value_other"], cell="")


def memorisation(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """Slopes over ln N of what memorisers store, on their own points and on held-out ones."""
    found = []
    for metric, name in (("S_train", "slope"), ("S_test", "slope_test")):
        for _, one in rows[rows["metric"] == metric].groupby(["data", "seed"], sort=False):
            one = one.sort_values("N")
            if len(one) > 1:
                slope = np.polyfit(np.log(one["N"].to_numpy(float)), one["value"], 1)[0]
                found.append(one.iloc[-1].to_dict() | {"metric": name, "value": slope, "cell": ""})
    return pd.DataFrame(found, columns=rows.columns)


def dilation(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """S_tot of each dilated mixture over that of the one dilated less."""
    total = at_last_mark(rows[rows["metric"] == "S_tot"]).sort_values("d")
    less = total.groupby(["process", "mixture", "seed"])["value"].shift(1)
    found = total.assign(metric="S_tot_rise", cell="", value=total["value"] / less)
    return found.dropna(subset="value").reindex(columns=rows.columns)
