"""The figures of eiw-order and eiw-stability: every order beside random permutations."""

from typing import Any

import pandas as pd

from reproduce.eiw_flow.figures import DATA, MODES, RANDOM
from reproduce.eiw_flow.order import MARGIN
from reproduce.figures import COLOURS, band, figure
from reproduce.plots import GREY, below, describe, margin, named_rows, numbers, spot, stretch, wide
from reproduce.tables import Observed

__all__ = ["ladder", "stability"]

_BLUE, _RED, _GREEN = COLOURS[:3]
_KINDS = {  # colour -> the orders that have it
    GREY: ("fixed", ("identity", "reverse", RANDOM, "blocks")),
    _BLUE: ("learned", ("eiw", "eiw_snapshot", "param", "ste")),
    _RED: ("by measured entropy", ("oracle_entropy", "anti_oracle")),
}
_COLOUR = {mode: colour for colour, (_, modes) in _KINDS.items() for mode in modes}


# ------------------------------------------------------------------------------- the ladder
def ladder(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Bits of every order less those of random ones, a panel a data set; order against entropy."""
    rows = seen.rows.assign(mode=seen.rows["mode"].str.replace(r"-\d+$", "", regex=True))
    rows["permutation"] = seen.rows["mode"]
    data = list(dict.fromkeys(rows["data"]))
    shown = [mode for mode in MODES if (rows["mode"] == mode).any()]
    fig, axes = figure(1, len(data) + 1, height=4.0, width=3.9, squeeze=False)
    *panels, right = axes[0]
    for ax, name in zip(panels, data, strict=True):
        _differences(ax, rows[(rows["data"] == name) & (rows["metric"] == "over_random")], shown)
        ax.set_title(DATA.get(name, name))
    for i, name in enumerate(data):
        some = rows[(rows["data"] == name) & (rows["metric"] == "order_entropy")]
        for y, mode in enumerate(shown):
            place, one = y + 0.28 * (i - (len(data) - 1) / 2), some[some["mode"] == mode]
            marker = "os^D"[i % 4]
            if mode == RANDOM:
                means = one.groupby("permutation")["value"].mean()
                right.plot(means, [place] * len(means), marker, color=GREY, markersize=4)
            else:
                spot(right, place, one.set_index("seed")["value"], _COLOUR[mode], marker=marker)
        right.plot([], [], marker, color="black", label=f"right: {DATA.get(name, name)}")
    right.axvline(0, color="black", linewidth=0.9, zorder=1)
    right.set(xlim=(-1.05, 1.05), title="Does the order follow entropy?")
    right.set_xlabel("rank correlation of place with entropy\n1: channels of low entropy are kept")
    named_rows(right, shown)
    right.tick_params(labelleft=False)
    for ax in panels[1:]:
        ax.tick_params(labelleft=False)
    panels[0].set_yticks(range(len(shown)), [_label(mode, rows) for mode in shown])
    for tick, mode in zip(panels[0].get_yticklabels(), shown, strict=True):
        tick.set_color(_COLOUR[mode])
    below(fig, panels[0], right)
    n = seen.rows["seed"].nunique()
    fig.suptitle(
        "What an order is worth: bits on held-out images less the mean of random permutations of "
        f"the same seed\n{describe(n)}",
        fontsize=10,
    )
    return fig


def _label(mode: str, rows: pd.DataFrame) -> str:
    if mode != RANDOM:
        return MODES[mode]
    n = rows.loc[rows["mode"] == RANDOM, "permutation"].nunique()
    return f"{n} random permutations" if n > 1 else "a random permutation"


def _differences(ax: Any, rows: pd.DataFrame, shown: list[str]) -> None:
    """One data set: a row an order, with seeds and interval; random ones as a band too."""
    margin(ax, MARGIN, label=f"within {MARGIN}, the gain the paper claims")
    chance = rows[rows["mode"] == RANDOM].groupby("permutation")["value"].mean()
    if len(chance) > 1:
        ax.axvspan(
            chance.min(), chance.max(), color=GREY, alpha=0.3, linewidth=0, zorder=0.5,
            label="range of the random ones",
        )  # fmt: skip
    for y, mode in enumerate(shown):
        values = rows[rows["mode"] == mode].set_index("seed")["value"]
        if mode == RANDOM:
            ax.plot(chance, [y] * len(chance), "o", color=GREY, markersize=4)
        elif len(values):
            spot(ax, y, values, _COLOUR[mode])
            mean = round(values.mean(), 3) + 0.0  # no "-0.000"
            ax.annotate(
                f"{mean:+.3f}", (1.01, y), xycoords=ax.get_yaxis_transform(), va="center",
                fontsize=7, color=_COLOUR[mode], annotation_clip=False,
            )  # fmt: skip
    for colour, (kind, modes) in _KINDS.items():
        if set(modes) & set(shown):
            ax.plot([], [], "o-", color=colour, label=kind)
    stretch(ax, rows["value"], MARGIN)
    note = "" if ax.get_xscale() == "linear" else f"; logarithmic beyond {MARGIN}"
    ax.set_xlabel(f"bits/dim more than random permutations\nleft of 0: fewer, better{note}")
    named_rows(ax, shown)


# ---------------------------------------------------------------------------- orders that change
_FROZEN = {
    "start": ("frozen at the start", _GREEN),
    "a tenth": ("frozen after a tenth", _BLUE),
    "never": ("never frozen", _RED),
}


def stability(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Bits less those of random orders along training and, of other data, at its end; and the
    channels that crossed."""
    first, *others = dict.fromkeys(seen.rows["data"])
    fig, axes = figure(1, 2 + len(others), height=3.8, width=4.4)
    left, right, *ends = axes
    rows = seen.rows[seen.rows["data"] == first]
    for ax, data in zip(ends, others, strict=True):
        _at_the_end(ax, seen.rows[seen.rows["data"] == data], DATA.get(data, data))
    bits = rows[rows["metric"] == "bpd_iw16"]
    random = bits[bits["order"] == "random"]
    chance = random.pivot_table(index="seed", columns="updates", values="value")
    margin(left, MARGIN, upright=True, label=f"margin: {MARGIN} bits/dim")
    if random["frozen_after"].nunique() > 1:
        mean = random.groupby(["frozen_after", "updates"])["value"].mean().unstack()
        mean = mean - mean.mean()
        left.fill_between(
            mean.columns, mean.min(), mean.max(), color=GREY, alpha=0.3, linewidth=0,
            label="range of random permutations",
        )  # fmt: skip
    crossed = rows[rows["metric"].isin(["crossed_1", "crossed_2"])]
    by = ["order", "frozen_after", "seed", "updates"]
    crossed = crossed.groupby(by)["value"].sum().reset_index().assign(metric="crossed")
    for name, (label, colour) in _FROZEN.items():
        at = {"order": "eiw", "frozen_after": name}
        over = (wide(bits, "bpd_iw16", "updates", **at) - chance).dropna(how="all").dropna(axis=1)
        if over.size:
            band(left, list(over.columns), over.to_numpy(), colour, label)
        count = wide(crossed, "crossed", "updates", **at)
        if count.size:
            band(right, list(count.columns), count.to_numpy(), colour, label)
    left.set(xlabel="gradient updates", ylabel="bits/dim more than random permutations")
    left.set_title(f"{DATA.get(first, first)}: a learned order beside random ones")
    right.set(xlabel="gradient updates", ylabel="channels that changed sides so far")
    right.set_title(f"{DATA.get(first, first)}: how far the order moves")
    jumps = numbers(rows, "jumps", order="eiw", frozen_after="never")
    if len(jumps):
        right.text(
            0.02, 0.98, f"never frozen: crossings with rises of bits,\nrank correlation "
            f"{jumps.mean():+.2f} from mark to mark", transform=right.transAxes, va="top",
            fontsize=8,
        )  # fmt: skip
    below(fig, left)
    n = seen.rows["seed"].nunique()
    kind = f"bands: range of {n} seeds" if n > 1 else "one seed"
    fig.suptitle(f"Orders that change while the flow learns, {kind}", fontsize=9)
    return fig


def _at_the_end(ax: Any, rows: pd.DataFrame, name: str) -> None:
    """What an order costs after training, by when it was frozen."""
    margin(ax, MARGIN)
    for y, (frozen, (_, colour)) in enumerate(_FROZEN.items()):
        values = numbers(rows, "over_random", order="eiw", frozen_after=frozen)
        spot(ax, y, values, colour)
    stretch(ax, rows.loc[rows["metric"] == "over_random", "value"], MARGIN)
    named_rows(ax, [label for label, _ in _FROZEN.values()])
    ax.set(
        title=f"{name}: at the end of training", xlabel="bits/dim more than random permutations"
    )
