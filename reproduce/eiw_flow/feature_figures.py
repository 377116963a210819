"""The figures of the feature targets: entropy, Gaussianity and information at the splits."""

from typing import Any

import numpy as np
import pandas as pd

from reproduce.eiw_flow.figures import DATA, MODES
from reproduce.figures import COLOURS, band, figure
from reproduce.papers import printed
from reproduce.plots import GREY, below, describe, named_rows, numbers, spot, stretch, wide
from reproduce.tables import Observed

__all__ = ["entropy", "growth", "information", "ks"]

_FIRST, _SECOND = COLOURS[:2]  # the two splits
_NAMES = {**MODES, "random-0": "random"}
_COLOURS = {"identity": GREY, "random-0": COLOURS[2], "eiw": COLOURS[0]}
# the printed data set that ours stand in for
_STANDS_FOR = {
    "mnist16": "mnist",
    "cifar16": "cifar10",
    "cifar32": "cifar10",
    "cifar10": "cifar10",
}
_GAUSSIAN = 0.5 * np.log(2 * np.pi * np.e)  # entropy of N(0, 1) in nats


def _arms(rows: pd.DataFrame) -> list[tuple[str, str]]:
    return list(rows[["data", "mode"]].drop_duplicates().itertuples(index=False, name=None))


def _named(ax: Any, arms: list[tuple[str, str]]) -> None:
    named_rows(ax, [f"{DATA.get(data, data)}: {_NAMES.get(mode, mode)}" for data, mode in arms])


def _key(ax: Any, marker: str, colour: str, label: str, hollow: bool = False) -> None:
    """An entry of the legend for a kind of point."""
    face = "none" if hollow else colour
    ax.plot([], [], marker, color=colour, markerfacecolor=face, linestyle="", label=label)


# ------------------------------------------------------------------------------- entropy
def entropy(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """What is factored out less what is kept, raw and standardised; and the gain of R2E2."""
    rows, arms = seen.rows, _arms(seen.rows)
    fig, axes = figure(1, 3, height=1.9 + 0.36 * len(arms), width=4.2, squeeze=False)
    raw, shape, gain = axes[0]
    for ax, tag in ((raw, ""), (shape, "_std")):
        ax.axvline(0, color="black", linewidth=0.9)
        for y, (data, mode) in enumerate(arms):
            at = {"data": data, "mode": mode}
            for k, colour in ((1, _FIRST), (2, _SECOND)):
                place = y + (0.17 if k == 2 else -0.17)
                spot(ax, place, numbers(rows, f"E2_gap_{k}{tag}", **at), colour)
                for marker, name in (("s", "knn"), ("^", "gauss")) if not tag else ():
                    other = numbers(rows, f"E2_gap_{k}_{name}", **at)
                    if len(other):
                        ax.plot(
                            other.mean(), place + 0.13, marker, color=colour, markersize=4,
                            markerfacecolor="none",
                        )  # fmt: skip
    for k, colour in ((1, _FIRST), (2, _SECOND)):
        _key(raw, "o", colour, f"{'first' if k == 1 else 'second'} split, spacings")
    _key(raw, "s", GREY, "nearest neighbours", hollow=True)
    _key(raw, "^", GREY, "as a Gaussian's", hollow=True)
    raw.set(title="Entropy factored out less kept", xlabel="nats an element (right of 0: claimed)")
    shape.set(title="The same, standardised", xlabel="nats an element: shape without scale")
    gain.axvline(0, color="black", linewidth=0.9)
    for y, (data, mode) in enumerate(arms):
        spot(gain, y, numbers(rows, "gain", data=data, mode=mode), _FIRST)
        for value in _printed(seen, "entropy/gain", data, mode):
            gain.plot(value, y, "D", color=_SECOND, markersize=7, markerfacecolor="none", zorder=5)
    _key(gain, "D", _SECOND, "paper (other definition and size; not comparable)", hollow=True)
    stretch(gain, rows.loc[rows["metric"] == "gain", "value"], 100.0)
    gain.set(title="R2E2 at the first split", xlabel="gain over the vanilla flow (%)")
    for ax in axes[0]:
        _named(ax, arms)
    for ax in (shape, gain):
        ax.tick_params(labelleft=False)
    below(fig, raw, gain)
    n = rows["seed"].nunique()
    fig.suptitle(f"What is kept and what is factored out; {describe(n)}", fontsize=9)
    return fig


def _printed(seen: Observed, key: str, data: str, mode: str) -> list[float]:
    """What the paper prints for the data set that this one stands for."""
    at = {"data": _STANDS_FOR.get(data), "mode": mode}
    rows = printed(seen.target.paper)
    return [row["value"] for row in rows if row["key"] == key and row["at"] == at]


# ------------------------------------------------------------------------------------ ks
def ks(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Distance of the features from N(0, 1), a panel a split: factored out and kept."""
    rows, arms = seen.rows, _arms(seen.rows)
    paper = {
        row["at"]["mode"]: row["value"]
        for row in printed(seen.target.paper)
        if row["key"] == "gaussianity/D"
    }
    fig, axes = figure(1, 2, height=2.0 + 0.36 * len(arms), width=4.8, squeeze=False)
    for k, ax in enumerate(axes[0], 1):
        for y, (data, mode) in enumerate(arms):
            at = {"data": data, "mode": mode}
            for part, shift, colour in (("z", -0.17, _FIRST), ("x", 0.17, GREY)):
                spot(ax, y + shift, numbers(rows, f"D_{part}_{k}", **at), colour)
                standard = numbers(rows, f"D_{part}_{k}_std", **at)
                spot(ax, y + shift, standard, colour, markerfacecolor="white")
        for value in paper.values():
            ax.axvline(value, color=_SECOND, linestyle=":", linewidth=1.4)
        ax.set(xscale="log", xlabel="D: greatest distance from the distribution of N(0, 1)")
        ax.set_xlim(None, 1)
        ax.set_title(f"{'First' if k == 1 else 'Second'} split")
        _named(ax, arms)
    values = ", ".join(f"{MODES[mode]} {value:g}" for mode, value in paper.items())
    label = f"paper, CIFAR-10: {values}; protocol unknown"
    axes[0][0].plot([], [], ":", color=_SECOND, label=label)
    _key(axes[0][0], "o", _FIRST, "factored out")
    _key(axes[0][0], "o", GREY, "kept")
    _key(axes[0][0], "o", "black", "standardised", hollow=True)
    axes[0][1].tick_params(labelleft=False)
    below(fig, axes[0][0])
    n = rows["seed"].nunique()
    fig.suptitle(f"How far from Gaussian; {describe(n)}", fontsize=9)
    return fig


# -------------------------------------------------------------------------------- growth
_STAGES = ("image", "split 1", "split 2", "last")


def growth(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Expected entropy along inference, raw and standardised, and variance; a row a data set."""
    rows, data = seen.rows, list(dict.fromkeys(seen.rows["data"]))
    fig, axes = figure(len(data), 3, height=2.7, width=3.6, squeeze=False)
    for panels, name in zip(axes, data, strict=True):
        for ax, stem, tag, title, unit in (
            (panels[0], "E2", "_knn", "expected entropy", "nats an element"),
            (panels[1], "E2", "_std_knn", "standardised", "nats an element"),
            (panels[2], "variance", "", "mean variance", ""),
        ):
            for mode in dict.fromkeys(rows["mode"]):
                some = rows[(rows["data"] == name) & (rows["mode"] == mode)]
                metrics = [f"{stem}_stage{k}{tag}" for k in range(len(_STAGES))]
                some = some[some["metric"].isin(metrics)].assign(
                    stage=lambda r: r["metric"].str.extract(r"stage(\d)")[0].astype(int),
                    metric="all",
                )
                table = wide(some, "all", "stage")
                if table.size:
                    colour = _COLOURS.get(mode, "black")
                    band(ax, list(table.columns), table, colour, _NAMES.get(mode, mode))
            ax.set_xticks(range(len(_STAGES)), _STAGES)
            ax.set(title=f"{DATA.get(name, name)}: {title}", ylabel=unit)
        panels[1].axhline(_GAUSSIAN, color="black", linestyle=":", label="N(0, 1): 1.419 nats")
        if panels[2].lines:
            panels[2].set_yscale("log")
    below(fig, axes[0][1])
    n = rows["seed"].nunique()
    kind = f"bands: range of {n} seeds" if n > 1 else "one seed"
    fig.suptitle(f"Along inference: from the image to what each scale reads, {kind}", fontsize=9)
    return fig


# --------------------------------------------------------------------------- information
_MASSES = {
    "mass": (COLOURS[4], "o", "mass, learned order"),
    "mass_static": (GREY, "s", "mass, channels as they are"),
    "mass_least": (COLOURS[2], "^", "least mass possible"),
}


def information(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Pixels and classes read off the features, and the guider's mass that is factored out."""
    rows, arms = seen.rows, _arms(seen.rows)
    fig, axes = figure(1, 3, height=1.9 + 0.36 * len(arms), width=4.4, squeeze=False)
    pixels, classes, mass = axes[0]
    for ax, metric, title, unit in (
        (pixels, "pixels", "Pixels, by ridge regression", "$R^2$ on images left out"),
        (classes, "class", "Classes, by ridge regression", "accuracy on images left out"),
    ):
        for y, (data, mode) in enumerate(arms):
            for k, colour in ((1, _FIRST), (2, _SECOND)):
                at, place = {"data": data, "mode": mode}, y + (0.17 if k == 2 else -0.17)
                spot(ax, place, numbers(rows, f"{metric}_x_{k}", **at), colour)
                lost = numbers(rows, f"{metric}_z_{k}", **at)
                spot(ax, place, lost, colour, markerfacecolor="white")
        ax.set(title=title, xlabel=unit)
        _named(ax, arms)
    classes.tick_params(labelleft=False)
    _key(pixels, "o", _FIRST, "kept at the first split")
    _key(pixels, "o", _SECOND, "at the second")
    _key(pixels, "o", "black", "factored out", hollow=True)

    splits = [(data, k) for data in dict.fromkeys(rows["data"]) for k in (1, 2)]
    for y, (data, k) in enumerate(splits):
        for i, (metric, (colour, marker, _)) in enumerate(_MASSES.items()):
            values = numbers(rows, f"{metric}_{k}", data=data, mode="eiw")
            spot(mass, y + 0.2 * (i - 1), values, colour, marker=marker)
    for colour, marker, label in _MASSES.values():
        _key(mass, marker, colour, label)
    named_rows(mass, [f"{DATA.get(data, data)}\nsplit {k}" for data, k in splits])
    mass.set(title="The guider's mass, factored out", xlabel="share; half, if it were even")
    mass.axvline(0.5, color="black", linewidth=0.9)
    below(fig, pixels, mass)
    n = rows["seed"].nunique()
    fig.suptitle(f"What a split gives away; {describe(n)}", fontsize=9)
    return fig
