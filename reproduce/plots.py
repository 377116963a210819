"""What figures share beyond their form: numbers, points with intervals, strips of tiles."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from reproduce.figures import COLOURS
from reproduce.statistics import interval

__all__ = [
    "GREY",
    "below",
    "describe",
    "margin",
    "named_rows",
    "numbers",
    "spot",
    "stretch",
    "strip",
    "wide",
]

GREY = "#7F7F7F"


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
    # the room that a linear axis leaves at its ends is none on this one
    limits = [v * 1.3 if abs(v) > linear else v for v in limits]
    (ax.set_ylim if upright else ax.set_xlim)(limits)
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


def strip(
    ax: Any,
    rows: list[tuple[str, list[Any]]],
    title: str = "",
    colours: str = "gray",
) -> None:
    """Rows of uint8 tiles (C, H, W), or None for a gap, on white; each row with its label."""
    ax.grid(False)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    if title:
        ax.set_title(title, fontsize=8)
    if not rows:
        return
    channels, side, _ = next(tile.shape for tile in rows[0][1] if tile is not None)
    most, gap = max(len(tiles) for _, tiles in rows), max(1, side // 12)
    sheet = np.full((channels, len(rows) * (side + gap), most * (side + gap)), np.nan)
    for i, (_, tiles) in enumerate(rows):
        for j, tile in enumerate(tiles):
            if tile is not None:
                y, x = i * (side + gap), j * (side + gap)
                sheet[:, y : y + side, x : x + side] = tile / 255
    sheet = sheet[:, : sheet.shape[1] - gap, : sheet.shape[2] - gap]
    image = sheet[0] if channels == 1 else np.nan_to_num(sheet, nan=1.0).transpose(1, 2, 0)
    ax.imshow(image, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    ticks = [i * (side + gap) + side / 2 for i in range(len(rows))]
    ax.set_yticks(ticks, [label for label, _ in rows], fontsize=6)
    ax.tick_params(length=0)
