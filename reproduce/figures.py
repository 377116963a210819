"""The plot forms that targets share; matplotlib is imported when one is drawn."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["COLOURS", "band", "figure", "save"]

# distinguishable in grey and for the colour-blind (Okabe-Ito)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.formatter.useoffset": False,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "entroflow",  # the same figure gives the same bytes
    "figure.constrained_layout.use": True,
}


def figure(
    rows: int = 1, columns: int = 1, height: float = 3.2, width: float = 3.4, **kwargs: Any
):
    """A figure and its axes in the suite's style: sizes are inches of one panel."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(_STYLE)
    return plt.subplots(rows, columns, figsize=(width * columns, height * rows), **kwargs)


def band(
    ax: Any, x: Sequence[float], per_seed: Sequence[Sequence[float]], colour: str, label: str
) -> None:
    """Mean over seeds as a line, their range as a band; ``per_seed`` is (seeds, len(x))."""
    y = np.asarray(per_seed, float)
    ax.plot(x, y.mean(0), color=colour, marker="o", markersize=3, linewidth=1.4, label=label)
    if len(y) > 1:
        ax.fill_between(x, y.min(0), y.max(0), color=colour, alpha=0.2, linewidth=0)


def _few_ticks(axis: Any) -> None:
    """Label a short log axis between the powers of ten too, sparsely.

    matplotlib's own labels there overlap on one axis and are too few on another.
    """
    from matplotlib.ticker import LogFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = axis.get_view_interval()
    if axis.get_scale() != "log" or not isinstance(axis.get_major_formatter(), LogFormatter):
        return
    axis.set_minor_formatter(NullFormatter())
    if not 0 < low < high:
        return
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.log10(high) + 1)
    if high > 30 * low and ((low <= powers) & (powers <= high)).sum() > 1:
        return
    for subs in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = np.multiply.outer(powers, subs)
        if ((low <= ticks) & (ticks <= high)).sum() >= 3:
            axis.set_major_locator(LogLocator(subs=subs))
            break
    else:  # less than a doubling or so: as on a linear axis
        axis.set_major_locator(MaxNLocator(4))
    axis.set_major_formatter("{x:,g}")


def save(fig: Any, path: Path, source: str = "") -> None:
    """Write ``path`` as .svg and .png, atomically and without a time stamp.

    Args:
        source: what it was drawn from, which both files then name in their metadata.
    """
    import matplotlib.pyplot as plt

    for ax in fig.axes:
        _few_ticks(ax.xaxis)
        _few_ticks(ax.yaxis)
    named = {"Source": source} if source else {}
    for suffix, without in ((".png", "Software"), (".svg", "Date")):
        metadata = {without: None, **named}
        temporary = path.with_name(f".{path.name}.{os.getpid()}{suffix}")
        fig.savefig(temporary, dpi=150, metadata=metadata)
        fig.set_layout_engine("none")  # laid out once: the second file is the same picture
        os.replace(temporary, path.with_suffix(suffix))
    plt.close(fig)
