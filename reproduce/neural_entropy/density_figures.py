"""The figures of ne-density, ne-uncertainty and ne-score-matching."""

from typing import Any

import numpy as np
import pandas as pd

from reproduce.figures import COLOURS, band, figure
from reproduce.neural_entropy.figures import series
from reproduce.tables import Observed

__all__ = ["density", "score_matching", "uncertainty"]


# ------------------------------------------------------------------------------- log-densities
def density(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Estimated against true log-density, a panel a mixture; and error against throws."""
    seed, key = min(r["seed"] for r in records), seen.target.evaluators[0].key
    mixtures = list(dict.fromkeys(_data(r)["mixture"] for r in records))
    fig, axes = figure(1, len(mixtures) + 1, height=3.6, squeeze=False)
    *panels, errors = axes[0]
    for ax, colour, mixture in zip(panels, COLOURS, mixtures, strict=False):
        mine = [r for r in records if _data(r)["mixture"] == mixture]
        arrays = next(r for r in mine if r["seed"] == seed)["arrays"]
        _scatter(ax, arrays, colour)
        ax.set_title(f"VP, {mixture}, seed {seed}")
        curves = [r["curves"][key] for r in mine]
        throws = curves[0]["throws"][-1]
        band(errors, throws, [c["error"][-1] for c in curves], colour, mixture)
        first = np.mean([c["error"][-1][0] for c in curves])
        errors.plot(throws, first * (np.array(throws) / throws[0]) ** -0.5, "--", color="grey")
    errors.plot([], [], "--", color="grey", label="throws$^{-1/2}$")
    errors.set(xscale="log", yscale="log", xlabel="throws", title="Error of one estimate")
    errors.set_xticks(throws, throws)
    errors.set_yticks(spreads := [0.1, 0.2, 0.5, 1.0], spreads)
    errors.minorticks_off()
    errors.set_ylabel("spread of repeated estimates (nats)")
    errors.legend()
    axes[0][0].set_ylabel("estimated log-density (nats)")
    return fig


def _data(record: dict[str, Any]) -> dict[str, Any]:
    return record["config"]["data"]["init_args"]


def _scatter(ax: Any, arrays: dict[str, np.ndarray], colour: str) -> None:
    if not arrays:  # a sidecar that is gone takes its points with it
        return
    truth = arrays["density.truth"]
    for name, shade, label in (
        ("estimate_exact", "grey", "exact field"),
        ("estimate", colour, "network"),
    ):
        y = arrays[f"density.{name}"]
        ax.plot(truth, y, ".", color=shade, markersize=3, alpha=0.6, label=label)
    ends = [truth.min(), truth.max()]
    ax.plot(ends, ends, color="black", linewidth=0.8)
    ax.set_xlabel("true log-density (nats)")
    ax.legend(markerscale=2)


# ------------------------------------------------------------------------------ the speed limit
def uncertainty(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Left: the chain of the speed limit against kappa. Right: divergence and bound, D = 3."""
    fig, (left, right) = figure(1, 2, height=3.8, width=4.6)
    rows = seen.rows[seen.rows["seed"] == seen.rows["seed"].min()]
    mixtures = [m for m in ("G1", "G2", "D3") if (rows["mixture"] == m).any()]
    for colour, mixture in zip(COLOURS, mixtures, strict=False):
        for process, schedule, style in (("vp", "linear", "-"), ("sl", "straight", ":")):
            at = {"mixture": mixture, "process": process, "schedule": schedule}
            length = 1 + _against(rows, "slack_length", "kappa", at)
            if length.empty:
                continue
            most = length * (1 + _against(rows, "slack_entropy", "kappa", at))
            name = f"{mixture}, {process.upper()}"
            left.plot(
                most.index, most, linestyle=style, marker="o", markersize=3, color=colour,
                label=name,
            )  # fmt: skip
            left.plot(
                length.index, length, linestyle=style, marker="x", markersize=4, color=colour,
                linewidth=0.8,
            )  # fmt: skip
    left.axhline(1, color="black", linewidth=0.8)
    left.set(xscale="log", xlabel="kappa", ylabel="in units of $W_2$")
    left.set_title(r"Circles: $\sqrt{S_{tot}\int\sigma^2/2}$; crosses: path length", fontsize=9)
    left.legend(fontsize=7)

    if (least := _against(rows, "KL_eq", "kappa", {"mixture": "D3", "process": "vp"})).size:
        right.plot(
            least.index, least, "--", color="grey", marker="s", markersize=3,
            markerfacecolor="none", label=r"KL(p_d || N(0, kappa$^2$ I))",
        )  # fmt: skip
    bounds = seen.rows[seen.rows["metric"] == "KL_bound_at_budget"]
    if len(bounds):
        wide = series(bounds, "KL_bound_at_budget", "kappa")
        updates = int(bounds["updates"].iloc[0])
        band(right, wide.columns, wide, COLOURS[0], f"KL bound after {updates} updates")
    right.set(xscale="log", yscale="log", xlabel="kappa", title="VP, D = 3", ylabel="nats")
    right.legend()
    return fig


def _against(rows: pd.DataFrame, metric: str, axis: str, at: dict[str, Any]) -> pd.Series:
    """One value of the metric for each of the axis, in its order."""
    rows = rows[rows["metric"] == metric]
    for name, value in at.items():
        rows = rows[rows[name] == value]
    return rows.groupby(axis)["value"].first()


# ------------------------------------------------------------------------------------ the score
def score_matching(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Left: noise, against the length of diffusion. Right: S_SM beside S_tot where data are."""
    fig, (left, right) = figure(1, 2, height=3.8, width=4.6)
    noise = seen.rows[seen.rows["mixture"] == "E3"]
    closed = _against(noise, "S_SM_exact", "beta_max", {})
    left.plot(
        _time(closed.index), closed, "--", color="grey", marker="s", markersize=3,
        markerfacecolor="none", label="$S_{SM}$, exact score: $D\\,U$",
    )  # fmt: skip
    for colour, metric, network, label in (
        (COLOURS[1], "S_SM", "sm", "$S_{SM}$, score matching"),
        (COLOURS[2], "S_NN", "sm", "$S_{NN}$ of it, equilibrium subtracted"),
        (COLOURS[0], "S_NN", "em", "$S_{NN}$, entropy matching"),
    ):
        wide = series(noise, metric, "beta_max", network=network)
        if not wide.empty:
            band(left, _time(wide.columns), wide, colour, label)
    left.set(xlabel=r"$\int\beta\,ds$", ylabel="nats", ylim=(-0.5, None))
    left.set_title("$p_d = p_{eq}$ = N(0, I), D = 3: nothing to store")
    left.legend(fontsize=7)

    known = seen.rows[~seen.rows["mixture"].isin(["E3", "E3-x"])]
    arms = sorted(set(zip(known["mixture"], known["process"], strict=True)))
    names = {"vp": "VP", "vpx": "VPx"}
    for shift, colour, metric, label in (
        (-0.12, COLOURS[0], "S_tot", "$S_{tot}$"),
        (0.0, COLOURS[1], "S_SM_exact", "$S_{SM}$, exact score"),
        (0.12, COLOURS[2], "S_NN", "$S_{NN}$, score matching, equilibrium subtracted"),
    ):
        found = [
            (i + shift, value)
            for i, (mixture, process) in enumerate(arms)
            for value in _values(known, metric, mixture, process)
        ]
        if found:
            right.plot(*zip(*found, strict=True), "o", color=colour, markersize=5, label=label)
    right.set_xticks(range(len(arms)), [f"{m}\n{names[p]}" for m, p in arms])
    right.set(yscale="log", xlim=(-0.5, len(arms) - 0.5), ylabel="nats")
    right.set_title("Data that hold something")
    right.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    return fig


def _time(beta_max: pd.Index) -> np.ndarray:
    return (0.1 + beta_max.to_numpy(float)) / 2  # beta rises from 0.1


def _values(rows: pd.DataFrame, metric: str, mixture: str, process: str) -> list[float]:
    """What the arms of one law show: a closed form once, a network's number for each seed."""
    at = (rows["metric"] == metric) & (rows["mixture"] == mixture) & (rows["process"] == process)
    return rows[at]["value"].drop_duplicates().tolist()
