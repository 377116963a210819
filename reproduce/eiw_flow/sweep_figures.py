"""The figures of eiw-lambda and eiw-solver: bits by the term's weight, by solver and guider."""

from typing import Any

import numpy as np
import pandas as pd

from reproduce.eiw_flow.order import MARGIN
from reproduce.figures import COLOURS, figure
from reproduce.plots import GREY, below, describe, margin, named_rows, numbers, spot, stretch
from reproduce.statistics import interval
from reproduce.tables import Observed

__all__ = ["sizes", "weights"]

_BACKBONES = {"NF": "Flow", "CNF": "Continuous flow"}
_OPTIMIZERS = {"adamax": "Adamax", "sgd": "SGD"}
_DETACHED = {"no": (COLOURS[0], "as published"), "yes": (COLOURS[1], "guider input detached")}
_BEST = {"NF": 1e-3, "CNF": 1e-4}  # Table 6
_OPTIMUM = "the paper's optimum"
_WITHIN = f"bands: within {MARGIN} of it"


# ------------------------------------------------------------------------------- weights
def weights(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Bits by weight, a panel a backbone and optimizer; last, how even the solver is."""
    rows = seen.rows
    runs = list(rows[["backbone", "optimizer"]].drop_duplicates().itertuples(index=False))
    fig, axes = figure(1, len(runs) + 1, height=3.7, width=3.5, squeeze=False)
    *panels, last = axes[0]
    places = _places(rows["lam"])
    for ax, (backbone, optimizer) in zip(panels, runs, strict=True):
        some = rows[(rows["backbone"] == backbone) & (rows["optimizer"] == optimizer)]
        if _BEST[backbone] in places:
            ax.axvline(places[_BEST[backbone]], color="black", linestyle=":", label=_OPTIMUM)
        for i, (detach, (colour, label)) in enumerate(_DETACHED.items()):
            one = some[some["detach"] == detach]
            _bits(ax, one, _BEST[backbone], places, 0.12 * i, colour, label)
        ax.set_title(f"{_BACKBONES[backbone]}, {_OPTIMIZERS[optimizer]}")
    panels[0].set_ylabel("bits/dim of held-out images")
    panels[0].fill_between([], [], [], color=GREY, alpha=0.3, linewidth=0, label=_WITHIN)
    for detach, (colour, _) in _DETACHED.items():
        for metric, line in (("H_Q_1", "--"), ("H_Q_2", "-")):
            some = rows[(rows["backbone"] == "NF") & (rows["optimizer"] == "adamax")]
            some = some[(some["metric"] == metric) & (some["detach"] == detach)]
            mean = some.groupby("lam")["value"].mean()
            if len(mean):
                last.plot(
                    [places[lam] for lam in mean.index], mean, line, color=colour, marker="o",
                    markersize=4,
                )  # fmt: skip
    for line, split in (("--", "first split"), ("-", "second split")):
        last.plot([], [], line, color=GREY, label=split)
    last.axhline(0.95, color=GREY, linestyle=":", label="0.95")
    last.set(ylim=(None, 1.02), title="How even the solver's weights are")
    last.set_ylabel("H(Q) / log C; 1: uniform")
    ticks = sorted(places)
    for ax in axes[0]:
        ax.set_xticks([places[lam] for lam in ticks], [_weight(lam) for lam in ticks])
        ax.set_xlim(min(places.values()) - 0.5, max(places.values()) + 0.5)
        ax.set_xlabel(r"weight $\lambda$ of the order's term")
    below(fig, *axes[0])
    fig.suptitle(
        "Bits by the weight of the order's term, mean of the seeds\n"
        "bars: 95 % interval of the paired difference to the paper's optimum",
        fontsize=9,
    )
    return fig


def _places(lam: pd.Series) -> dict[float, float]:
    """Where each weight stands: its logarithm, and zero to the left of all others."""
    known = {v: float(np.log10(v)) for v in sorted(lam.unique()) if v > 0}
    return known | {v: min(known.values(), default=0.0) - 1.5 for v in lam.unique() if v == 0}


def _weight(lam: float) -> str:
    power = round(np.log10(lam)) if lam > 0 else 0
    return f"$10^{{{power}}}$" if power else f"{lam:g}"


def _bits(
    ax: Any,
    rows: pd.DataFrame,
    best: float,
    places: dict[float, float],
    shift: float,
    colour: str,
    label: str,
) -> None:
    """One line: means over seeds, with the interval of what is paired with the optimum."""
    bits = rows[rows["metric"] == "bpd_iw16"].groupby("lam")["value"].mean()
    if bits.empty:
        return
    x = [places[lam] + shift for lam in bits.index]
    ax.plot(x, bits, color=colour, marker="o", markersize=4, linewidth=1.2, label=label)
    for at, lam in zip(x, bits.index, strict=True):
        low, high = interval(numbers(rows, "excess", lam=lam))
        if low < high:
            level = bits.get(best, np.nan)
            ax.plot([at, at], [level + low, level + high], color=colour, linewidth=1.6, alpha=0.7)
    if best in bits.index:
        ax.axhspan(
            bits[best] - MARGIN, bits[best] + MARGIN, color=colour, alpha=0.12, linewidth=0,
            zorder=0,
        )  # fmt: skip


# --------------------------------------------------------------------------------- sizes
_USUAL = {"depth": 2, "reduction": 4}


def sizes(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Bits less those of two layers and a reduction of 4: by depth, and by reduction."""
    rows = seen.rows
    usual = numbers(rows, "bpd_iw16", **_USUAL)
    fig, axes = figure(1, 2, height=2.9, width=4.6)
    found: list[float] = []
    for ax, axis, title in (
        (axes[0], "depth", "Layers of the solver, reduction 4"),
        (axes[1], "reduction", "Reduction of the guider, two layers"),
    ):
        margin(ax, MARGIN, label=f"within {MARGIN} bits/dim")
        fixed = {k: v for k, v in _USUAL.items() if k != axis}
        some = rows[(rows[list(fixed)] == pd.Series(fixed)).all(axis=1)]
        shown, labels = sorted(some[axis].unique()), []
        for y, size in enumerate(shown):
            more = (numbers(some, "bpd_iw16", **{axis: size}) - usual).dropna()
            spot(ax, y, more, GREY if size == _USUAL[axis] else COLOURS[0])
            found += list(more)
            labels.append(_size(axis, size, numbers(some, "order_parameters", **{axis: size})))
        named_rows(ax, labels)
        ax.set(title=title, xlabel="bits/dim more than two layers, reduction 4 (paired)")
    for ax in axes:
        stretch(ax, found, MARGIN)
    below(fig, axes[0])
    n = rows["seed"].nunique()
    fig.suptitle(f"What a larger solver or guider buys; {describe(n)}", fontsize=9)
    return fig


def _size(axis: str, size: int, parameters: pd.Series) -> str:
    name = f"{size} layer{'s' if size > 1 else ''}" if axis == "depth" else f"reduction {size}"
    return f"{name}\n{parameters.mean():,.0f} parameters" if len(parameters) else name
