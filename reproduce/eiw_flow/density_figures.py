"""The figures of eiw-density, eiw-difficulty, eiw-prior and eiw-corruption: gains in bits."""

from typing import Any

import pandas as pd

from reproduce.eiw_flow.figures import BACKBONES, DATA, MODES
from reproduce.eiw_flow.order import MARGIN
from reproduce.figures import COLOURS, band, figure
from reproduce.papers import printed
from reproduce.plots import GREY, below, describe, margin, named_rows, numbers, spot, stretch, wide
from reproduce.statistics import interval
from reproduce.tables import Observed

__all__ = ["corruption", "density", "difficulty", "priors"]

_BLUE, _RED, _GREEN = COLOURS[:3]
_WITHIN = f"within {MARGIN} bits/dim"
_STYLES = {
    "eiw": {"colour": _BLUE},
    "eiw_snapshot": {"colour": _GREEN, "marker": "s"},
    "random-0": {"colour": GREY, "marker": "D"},
}
_NAMES = {**MODES, "random-0": "a random permutation"}


# ------------------------------------------------------------------------------- density
def density(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Paired differences, a row a backbone and data set: to the backbone alone, to random."""
    rows = seen.rows
    arms = list(rows[["backbone", "data"]].drop_duplicates().itertuples(index=False, name=None))
    shown = [mode for mode in _STYLES if (rows["mode"] == mode).any()]
    fig, (left, right) = figure(1, 2, height=1.6 + 0.55 * len(arms), width=4.8)
    gains = _printed_gains(seen)
    for ax, metric, title in (
        (left, "over_identity", "to the backbone alone"),
        (right, "over_random", "to a random permutation"),
    ):
        margin(ax, MARGIN, label=_WITHIN)
        for y, (backbone, data) in enumerate(arms):
            at = {"backbone": backbone, "data": data}
            found = {mode: numbers(rows, metric, mode=mode, **at) for mode in shown}
            if metric == "over_random":
                found.pop("random-0", None)  # a difference to itself
            found = {mode: values for mode, values in found.items() if len(values)}
            for i, (mode, values) in enumerate(found.items()):
                spot(ax, y + 0.22 * (i - (len(found) - 1) / 2), values, **_STYLES[mode])
        stretch(ax, rows.loc[rows["metric"] == metric, "value"], MARGIN)
        ax.set(title=f"Difference {title}", xlabel="bits/dim (left of 0: fewer, better)")
        named_rows(ax, [_arm(rows, *arm) for arm in arms])
    right.tick_params(labelleft=False)
    for i, gain in enumerate(gains.values()):
        note = "" if seen.tier == "paper" else "; not comparable"
        label = f"paper, CIFAR-10: {gain:+.2f}{note}"
        left.axvline(gain, color=_RED, linestyle=":", linewidth=1.4, label="" if i else label)
    for mode in shown:
        style = {k: v for k, v in _STYLES[mode].items() if k != "colour"}
        left.plot(
            [], [], **{"marker": "o", **style}, linestyle="", color=_STYLES[mode]["colour"],
            label=_NAMES[mode],
        )  # fmt: skip
    below(fig, left)
    fig.suptitle(
        f"Bits on held-out images, paired by seed; {describe(rows['seed'].nunique())}", fontsize=9
    )
    return fig


def _arm(rows: pd.DataFrame, backbone: str, data: str) -> str:
    """A row's name, with the bits of the backbone alone."""
    alone = numbers(rows, "bpd_iw16", backbone=backbone, data=data, mode="identity")
    name = f"{BACKBONES.get(backbone, backbone)}, {DATA.get(data, data)}"
    return f"{name}\n{alone.mean():.3f} bits/dim" if len(alone) else name


def _printed_gains(seen: Observed) -> dict[str, float]:
    """Bits with Shuffle less bits without, of the data sets for which both are printed."""
    bits = {
        (row["at"]["data"], row["at"]["mode"]): row["value"]
        for row in printed(seen.target.paper)
        if row["key"] == seen.target.printed.get("bpd_iw16")
    }
    both = [data for data, mode in bits if mode == "eiw" and (data, "identity") in bits]
    return {data: bits[data, "eiw"] - bits[data, "identity"] for data in both}


# ----------------------------------------------------------------------------- difficulty
def difficulty(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """The gain by Shuffle against how hard the data are for the vanilla flow."""
    fig, axes = figure(1, 1, height=4.0, width=5.6)
    rows = seen.rows
    margin(axes, MARGIN, upright=True, label=_WITHIN)
    for colour, data in zip((*COLOURS, GREY), dict.fromkeys(rows["data"]), strict=False):
        hard = numbers(rows, "difficulty", data=data).mean()
        gain = -numbers(rows, "over_identity", data=data, mode="eiw")
        spot(axes, hard, gain, colour, DATA.get(data, data), upright=True)
    stretch(axes, rows.loc[rows["metric"] == "over_identity", "value"], MARGIN, upright=True)
    axes.set_xlabel("difficulty: vanilla bits/dim over bits of a pixel")
    axes.set_ylabel("gain by Shuffle (bits/dim)")
    axes.margins(x=0.15)
    rise = numbers(rows, "gain_rise")
    title = "The gain by Shuffle where images are harder"
    if len(rise):
        low, high = interval(rise)
        title += f"\nrank correlation {rise.mean():+.2f}"
        title += f", 95 % interval {low:+.2f} to {high:+.2f}" if low <= high else ""
    axes.set_title(title, fontsize=9)
    below(fig, axes)
    return fig


# --------------------------------------------------------------------------------- prior
_PRIORS = {
    "standard": "N(0, I), the paper's",
    "diagonal": "learned diagonal normal",
    "logistic": "logistic",
    "mixture": "mixture of two",
    "conditional": "normal, reads what is kept",
}


def priors(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Left: bits of both flows under each prior. Right: paired difference."""
    rows = seen.rows
    shown = [p for p in _PRIORS if (rows["prior"] == p).any()]
    fig, (left, right) = figure(1, 2, height=1.4 + 0.45 * len(shown), width=4.8)
    margin(right, MARGIN, label=_WITHIN)
    for y, prior in enumerate(shown):
        for shift, mode, colour in ((-0.13, "identity", GREY), (0.13, "eiw", _BLUE)):
            spot(left, y + shift, numbers(rows, "bpd_iw16", prior=prior, mode=mode), colour)
        spot(right, y, numbers(rows, "over_identity", prior=prior, mode="eiw"), _BLUE)
    for mode, colour in (("identity", GREY), ("eiw", _BLUE)):
        left.plot([], [], "o", color=colour, label=MODES[mode])
    stretch(right, rows.loc[rows["metric"] == "over_identity", "value"], MARGIN)
    left.set(xlabel="bits/dim", title="Bits on held-out images")
    right.set(xlabel="bits/dim (left of 0: fewer, better)", title="Shuffle less vanilla, paired")
    for ax in (left, right):
        named_rows(ax, [_PRIORS[p] for p in shown])
    below(fig, left, right)
    right.tick_params(labelleft=False)
    left.set_ylabel("density of what is factored out")
    data = ", ".join(DATA.get(d, d) for d in dict.fromkeys(rows["data"]))
    fig.suptitle(f"Shuffle under other priors, {data}; {describe(rows['seed'].nunique())}",
                 fontsize=9)  # fmt: skip
    return fig


# ---------------------------------------------------------------------------- corruption
def corruption(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Left: bits of clean and damaged images by share. Right: paired difference, clean ones."""
    rows = seen.rows
    fig, (left, right) = figure(1, 2, height=3.6, width=4.6)
    margin(right, MARGIN, upright=True, label=_WITHIN)
    for mode, colour in (("identity", GREY), ("eiw", _BLUE)):
        for metric, line, what in (
            ("bpd_iw16", "-", "clean images"),
            ("bpd_damaged_iw16", "--", "damaged images"),
        ):
            bits = wide(rows, metric, "share", mode=mode)
            if bits.size:
                band(left, list(bits.columns), bits, colour, f"{MODES[mode]}, {what}")
                left.lines[-1].set_linestyle(line)
    for share in sorted(rows["share"].unique()):
        at = {"share": share, "mode": "eiw"}
        spot(right, share, numbers(rows, "over_identity", **at), _BLUE, upright=True)
    stretch(right, rows.loc[rows["metric"] == "over_identity", "value"], MARGIN, upright=True)
    left.set(ylabel="bits/dim of held-out images", title="What damage costs")
    right.set(ylabel="bits/dim (below 0: fewer, better)")
    right.set_title("Shuffle less vanilla, clean images, paired")
    for ax in (left, right):
        ax.set_xlabel("share of damaged training images")
    below(fig, left, right)
    n = rows["seed"].nunique()
    fig.suptitle(f"Left: mean and range of the seeds. Right: {describe(n)}", fontsize=9)
    return fig
