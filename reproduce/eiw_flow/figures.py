"""What the figures of EIW-Flow share: names, numbers per seed, points with their intervals."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from reproduce.figures import COLOURS
from reproduce.statistics import interval

__all__ = [
    "BACKBONES",
    "DATA",
    "GREY",
    "MODES",
    "RANDOM",
    "below",
    "describe",
    "margin",
    "named_rows",
    "numbers",
    "spot",
    "stretch",
    "wide",
]

GREY, RANDOM = "#7F7F7F", "random"
MODES = {
    "identity": "vanilla",
    "reverse": "reversed",
    RANDOM: "random",
    "eiw": "Shuffle",
    "eiw_snapshot": "Shuffle, public code",
    "param": "free logits",
    "ste": "straight-through",
    "oracle_entropy": "oracle: low entropy kept",
    "anti_oracle": "anti-oracle: high kept",
}
DATA = {
    "noise": "noise",
    "digits": "digits",
    "mnist16": "MNIST, 16 px",
    "tiny16": "Tiny ImageNet, 16 px",
    "cifar16": "CIFAR-10, 16 px",
    "cifar32": "CIFAR-10 (JPEG), 32 px",
    "cifar10": "CIFAR-10",
    "imagenet32": "ImageNet, 32 px",
    "imagenet64": "ImageNet, 64 px",
    "celeba": "CelebA, 64 px",
}
BACKBONES = {"glow": "Glow", "dense": "DenseFlow", "cnf": "continuous"}


def numbers(rows: pd.DataFrame, metric: str, **at: Any) -> pd.Series:
    """A metric's numbers, one per seed, where the axes have these values."""
    rows = rows[rows["metric"] == metric]
    for axis, value in at.items():
        rows = rows[rows[axis] == value]
    return rows.set_index("seed")["value"].sort_index()


def wide(rows: pd.DataFrame, metric: str, along: str, **at: Any) -> pd.DataFrame:
    """A metric as a table of seeds by ``along``, without what some seed lacks."""
    rows = rows[rows["metric"] == metric]
    for axis, value in at.items():
        rows = rows[rows[axis] == value]
    return rows.pivot_table(index="seed", columns=along, values="value").dropna(axis=1)


def spot(
    ax: Any,
    at: float,
    values: pd.Series,
    colour: str,
    label: str = "",
    upright: bool = False,
    **style: Any,
) -> None:
    """The mean of all seeds with its 95 % interval in row ``at``, and each seed as a thin stroke.

    ``upright`` sets it in column ``at`` instead; without values nothing is drawn.
    """
    if values.empty:
        return
    low, high = interval(values)
    mean = values.mean()
    style = {"marker": "o", "markersize": 6, "zorder": 4, **style}
    stroke = {"marker": "_" if upright else "|", "markersize": 9, "linestyle": "", "zorder": 2}
    places = np.full(len(values), at)
    seeds = (places, values) if upright else (values, places)
    ends = ([at, at], [low, high]) if upright else ([low, high], [at, at])
    middle = ([at], [mean]) if upright else ([mean], [at])
    if len(values) > 1:
        ax.plot(*seeds, color=colour, markeredgewidth=0.9, alpha=0.7, **stroke)
    if low < high:
        ax.plot(*ends, color=colour, linewidth=2, alpha=0.8, zorder=3)
    ax.plot(*middle, color=colour, linestyle="", label=label or None, **style)


def describe(n: int) -> str:
    """What ``spot`` draws of ``n`` seeds, in words."""
    if n < 3:
        return "one seed" if n == 1 else f"points: mean of {n} seeds; strokes: the seeds"
    return f"points: mean of {n} seeds with its 95 % interval; strokes: the seeds"


def margin(ax: Any, width: float, upright: bool = False, label: str = "") -> None:
    """Zero as a line, and the margin within which differences count as none."""
    ax.locator_params(axis="y" if upright else "x", nbins=6)
    line, span = (ax.axhline, ax.axhspan) if upright else (ax.axvline, ax.axvspan)
    line(0, color="black", linewidth=0.9, zorder=1)
    span(-width, width, color=COLOURS[4], alpha=0.2, linewidth=0, zorder=0, label=label or None)
    for edge in (-width, width):
        line(edge, color=COLOURS[4], linewidth=0.9, linestyle="--", zorder=1)


def stretch(ax: Any, values: Iterable[float], linear: float, upright: bool = False) -> None:
    """Logarithmic beyond ``+-linear`` where values are much larger: both are to be seen."""
    most = max((abs(v) for v in values if np.isfinite(v)), default=0.0)
    if most <= 15 * linear:
        return
    scale, ticks = (ax.set_yscale, ax.set_yticks) if upright else (ax.set_xscale, ax.set_xticks)
    scale("symlog", linthresh=linear, linscale=1.0)
    powers = [linear * 10.0**k for k in range(int(np.ceil(np.log10(most / linear))) + 1)]
    shown = [*(-p for p in reversed(powers)), 0.0, *powers]
    limits = ax.get_ylim() if upright else ax.get_xlim()
    shown = [v for v in shown if limits[0] <= v <= limits[1]]
    ticks(shown, [f"{v:g}" for v in shown])
    ax.minorticks_off()


def named_rows(ax: Any, labels: list[str]) -> None:
    """The names of the rows 0, 1, ..., the first on top."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)


def below(fig: Any, *axes: Any) -> None:
    """One legend under the figure, of what stands in these axes, each name once."""
    found = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    if found:
        columns = _columns(list(found), fig.get_figwidth())
        fig.legend(
            found.values(), found, loc="outside lower center", ncols=columns, fontsize=8
        )  # fmt: skip


def _columns(labels: list[str], width: float) -> int:
    """As many columns as fit into ``width`` inches, a letter being about 0.065 wide."""
    sizes = [0.6 + 0.065 * len(label) for label in labels]
    for columns in range(len(labels), 1, -1):
        parts = np.array_split(sizes, columns)  # filled column by column
        if sum(part.max() for part in parts) < width:
            return columns
    return 1
