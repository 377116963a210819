"""The figures of Neural Entropy's images: growth with N, profiles, pictures."""

from typing import Any

import numpy as np
import pandas as pd

from reproduce.figures import COLOURS, band, figure
from reproduce.neural_entropy.figures import series
from reproduce.neural_entropy.samples import EPOCHS
from reproduce.papers import printed
from reproduce.tables import Observed

__all__ = ["profiles", "quality", "samples", "saturation"]

_NAMES = {
    "mnist": "MNIST",
    "digits": "digits",
    "cifar10_jpeg": "CIFAR-10 (JPEG)",
    "cifar10_lossless": "CIFAR-10",
    "tiny_imagenet": "Tiny ImageNet",
}
_PROCESS = {"vp": "VP", "sl": "SL"}


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
        ours = series(rows, f"S_NN_at_equal_{reading}", "N", data=data)
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
        if r["key"] == "samples-figure/S_NN" and data == r["at"]["data"]
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
    sizes = sorted(rows.loc[rows["data"] == data, "N"].unique())
    for n, colour in _shades(sizes):
        ours = series(rows, "S_NN", "updates", data=data, N=n)
        band(ax, list(ours.columns), ours.to_numpy(), colour, f"{n:,}")
    ax.set_xscale("log")
    ax.xaxis.set_minor_formatter("")  # over little more than a decade they would overlap
    ax.set_ylim(bottom=0)
    ax.set_xlabel("gradient updates")
    ax.set_title(f"{title}, along training")
    ax.legend(title="N")


def saturation(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """S_NN (top) and cross-entropy (below) against updates, a column a process."""
    processes = [p for p in _PROCESS if (seen.rows["process"] == p).any()]
    fig, axes = figure(2, len(processes), height=2.8, width=4.2, squeeze=False)
    for column, process in zip(axes.T, processes, strict=True):
        rows = seen.rows[seen.rows["process"] == process]
        sizes = sorted(rows["N"].unique())
        for ax, metric in zip(column, ("S_NN", "CE"), strict=True):
            for n, colour in _shades(sizes):
                ours = series(rows, metric, "updates", N=n)
                band(ax, list(ours.columns), ours.to_numpy(), colour, f"{n:,}")
            ax.set_xscale("log")
        column[0].set_title(f"{_NAMES[seen.rows['data'].iloc[0]]}, {_PROCESS[process]}")
        column[0].set_ylim(bottom=0)
        column[0].legend(title="N", fontsize=7)
        column[1].set_xlabel("gradient updates")
    axes[0][0].set_ylabel("$S_{NN}$ (nats an image)")
    axes[1][0].set_ylabel("cross-entropy bound (nats)")
    return fig


def profiles(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Entropy rate and its share until s, over log-spaced times, a curve a data set and seed."""
    fig, (left, right) = figure(1, 2, height=3.6, width=4.4)
    arms = seen.cells.set_index("cell")["data"]
    colours = dict(zip(dict.fromkeys(arms), COLOURS, strict=False))
    for record in records:
        name = arms[record["cell"]]
        curve = next(c for c in record["curves"].values() if "rate" in c)
        s, rate = (np.asarray(curve[k][-1]) for k in ("s", "rate"))
        first = record["seed"] == min(r["seed"] for r in records)
        look = {"color": colours[name], "linewidth": 1.2, "alpha": 1 if first else 0.4}
        look["label"] = _NAMES.get(name, name) if first else None
        left.plot(s, rate * s / np.max(rate * s), **look)
        steps = np.diff(s) * (rate[1:] + rate[:-1]) / 2
        right.plot(s[1:], np.cumsum(steps) / steps.sum(), **look)
    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_xlim(1e-4, 1)
        ax.set_xlabel("diffusion time s")
    left.set_ylabel("s x entropy rate, over its maximum")
    left.set_title("Where along log s entropy is stored")
    right.set_ylabel("share of $S_{NN}$ until s")
    right.set_title("Cumulative")
    right.axvline(0.1, color="grey", linestyle=":", linewidth=1)
    right.plot([0.1, 0.1], [0.716, 0.742], "s", color="black", markersize=4,
               markerfacecolor="none", label="paper: MNIST, CIFAR-10")  # fmt: skip
    left.legend()
    right.legend()
    return fig


def quality(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Left: distance to held-out images against N; right: samples from one start noise."""
    fig, (left, right) = figure(1, 2, height=3.6, width=4.6)
    ours = series(seen.rows, "sliced_W2", "N")
    band(left, list(ours.columns), ours.to_numpy(), COLOURS[0], "samples")
    floor = series(seen.rows, "floor", "N").to_numpy().mean()
    left.axhline(floor, color="grey", linestyle="--", linewidth=1, label="held-out halves")
    left.set(xscale="log", xlabel="training images N", ylabel="sliced $W_2$ (pixels)")
    left.set_ylim(bottom=0)
    left.legend()
    sizes = seen.cells.set_index("cell")["N"]
    seed = min(r["seed"] for r in records)
    shown = sorted((sizes[r["cell"]], r["arrays"]) for r in records if r["seed"] == seed)
    shown = [(n, a["quality.tiles"][:10, 0]) for n, a in shown if "quality.tiles" in a]
    if shown:
        side = shown[0][1].shape[1]
        right.imshow(np.vstack([np.hstack(tiles) for _, tiles in shown]), cmap="gray_r")
        right.set_yticks(
            [side * (i + 0.5) for i in range(len(shown))], [f"{n:,}" for n, _ in shown]
        )
        right.set_ylabel("training images N")
        right.set_title(f"Samples from one start noise, seed {seed}")
    right.set_xticks([])
    right.grid(False)
    return fig


def _shades(values: list[Any]) -> list[tuple[Any, Any]]:
    """A colour for each of some ordered values, light to dark."""
    import matplotlib

    shades = matplotlib.colormaps["viridis_r"]
    return [(v, shades(0.1 + 0.85 * i / max(1, len(values) - 1))) for i, v in enumerate(values)]
