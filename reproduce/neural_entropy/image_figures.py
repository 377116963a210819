"""The figures of Neural Entropy's images: growth with N, profiles, pictures."""

from typing import Any

import numpy as np
import pandas as pd

from reproduce.figures import COLOURS, band, figure
from reproduce.neural_entropy.samples import EPOCHS
from reproduce.papers import printed
from reproduce.tables import Observed

__all__ = ["samples"]

_NAMES = {"mnist": "MNIST", "digits": "digits", "cifar10_jpeg": "CIFAR-10 (JPEG)"}


def _table(rows: pd.DataFrame, metric: str, columns: str, **at: Any) -> pd.DataFrame:
    """Seeds by ``columns``, of one metric."""
    rows = rows[rows["metric"] == metric]
    for axis, value in at.items():
        rows = rows[rows[axis] == value]
    return rows.pivot_table(index="seed", columns=columns, values="value").dropna(axis=1)


def samples(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """For each data set: S_NN against N, read twice, and against updates; then the mixture."""
    present = [d for d in _NAMES if (seen.rows["data"] == d).any()]
    mixture = (seen.rows["data"] == "D9").any()
    fig, axes = figure(1, 2 * len(present) + mixture, height=3.9, width=4.0, squeeze=False)
    for i, data in enumerate(present):
        _against_n(axes[0][2 * i], seen.rows, data, seen.tier)
        _against_updates(axes[0][2 * i + 1], seen.rows, data, _NAMES[data])
    if mixture:
        ax = axes[0][-1]
        _against_updates(ax, seen.rows, "D9", "smooth mixture, D = 9")
        total = seen.rows[seen.rows["metric"] == "S_tot"]["value"].iloc[0]
        ax.axhline(total, color="grey", linestyle="--", linewidth=1, label="$S_{tot}$")
        ax.legend(title="N")
    n = seen.rows["seed"].nunique()
    kind = f"bands: range of {n} seeds" if n > 1 else "one seed"
    note = "" if seen.tier == "paper" else "; the paper's epochs are not known, nor comparable"
    fig.suptitle(f"Stored entropy of held-out images, {kind}{note}", fontsize=9)
    return fig


def _against_n(ax: Any, rows: pd.DataFrame, data: str, tier: str) -> None:
    few, many = EPOCHS[tier]
    readings = (
        ("epochs", COLOURS[1], f"{few} epochs each"),
        ("more_epochs", COLOURS[4], f"{many} epochs each"),
        ("updates", COLOURS[0], "equal updates"),
    )
    for reading, colour, words in readings:
        ours = _table(rows, f"S_NN_at_equal_{reading}", "N", data=data)
        if ours.empty:
            continue
        n = np.asarray(ours.columns, float)
        band(ax, n, ours.to_numpy(), colour, f"ours, {words}")
        if len(n) > 2:
            slope, at = np.polyfit(np.log(n), ours.to_numpy().mean(0), 1)
            ax.plot(n, at + slope * np.log(n), ":", color=colour, linewidth=1)
            ax.plot([], [], ":", color=colour, label=f"{at:.0f} {slope:+.1f} ln N")
    points = [
        (r["at"]["N"], r["value"], r["error"])
        for r in printed("neural-entropy")
        if r["key"] == "samples-figure/S_NN" and data.startswith(r["at"]["data"])
    ]
    if points:
        x, y, error = zip(*points, strict=True)
        ax.errorbar(
            x, y, error, color="black", marker="s", markersize=4, markerfacecolor="none",
            linestyle="--", linewidth=0.8, elinewidth=0.8, label="paper's figure",
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("training images N")
    ax.set_ylabel("neural entropy $S_{NN}$ (nats an image)")
    ax.set_title(f"{_NAMES[data]}, read twice")
    ax.legend(fontsize=7)


def _against_updates(ax: Any, rows: pd.DataFrame, data: str, title: str) -> None:
    import matplotlib

    sizes = sorted(rows.loc[rows["data"] == data, "N"].unique())
    shades = matplotlib.colormaps["viridis_r"]
    for i, n in enumerate(sizes):
        ours = _table(rows, "S_NN", "updates", data=data, N=n)
        colour = shades(0.1 + 0.85 * i / max(1, len(sizes) - 1))
        band(ax, list(ours.columns), ours.to_numpy(), colour, f"{n:,}")
    ax.set_xscale("log")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("gradient updates")
    ax.set_title(f"{title}, along training")
    ax.legend(title="N")
