"""The figures of ne-bound and ne-balance: bounds along training, stored against missing."""

from typing import Any

from reproduce.figures import COLOURS, band, figure
from reproduce.neural_entropy.figures import NAMES, series
from reproduce.tables import Observed

__all__ = ["balance", "bound"]


def bound(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """The KL bound against updates, a panel a mixture, with L_EM + KL(p_T || p_0) beside it."""
    mixtures = list(dict.fromkeys(seen.rows["mixture"]))
    fig, axes = figure(1, len(mixtures), height=3.6, width=4.2, squeeze=False)
    for ax, mixture in zip(axes[0], mixtures, strict=True):
        for colour, (process, name) in zip(COLOURS, NAMES.items(), strict=False):
            at = {"process": process, "mixture": mixture}
            by_density = series(seen.rows, "KL_bound", **at)
            if by_density.empty:
                continue
            band(ax, list(by_density.columns), by_density.to_numpy(), colour, name)
            mismatch = series(seen.rows, "L_EM", **at)
            if not mismatch.empty:
                y = (mismatch + series(seen.rows, "KL_start", **at)).mean()
                ax.plot(y.index, y, "x", color=colour, markersize=5)
        ax.plot([], [], "x", color="grey", label="$L_{EM}$ + KL(p_T || p_0)")
        ax.set(xscale="log", yscale="log", xlabel="gradient updates", title=mixture)
        ax.legend()
    axes[0][0].set_ylabel("bound on KL(p_d || p_theta) (nats)")
    return fig


def balance(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Missing entropy S_tot - S_NN against L_EM, every mark of every run, a panel a process."""
    processes = [p for p in NAMES if (seen.rows["process"] == p).any()]
    fig, axes = figure(1, len(processes), height=3.6, squeeze=False)
    for ax, process in zip(axes[0], processes, strict=True):
        for colour, weighting in zip(COLOURS, ("unit", "ml"), strict=False):
            at = {"process": process, "weighting": weighting}
            loss, missing = (series(seen.rows, m, **at) for m in ("L_EM", "missing"))
            if len(loss):
                ax.plot(
                    loss.to_numpy().ravel(), missing.to_numpy().ravel(), "o", color=colour,
                    markersize=3, alpha=0.7, label=f"weighting {weighting}",
                )  # fmt: skip
        low, high = min(0.0, *ax.get_ylim()), max(ax.get_xlim()[1], ax.get_ylim()[1])
        ax.plot(
            [0, high], [0, high], "--", color="grey", linewidth=1, label="$S_{tot}-S_{NN}=L_{EM}$"
        )
        ax.set(xlabel="$L_{EM}$ (nats)", title=NAMES[process], ylim=(low, None))
        ax.legend(fontsize=7)
    axes[0][0].set_ylabel("missing entropy $S_{tot}-S_{NN}$ (nats)")
    return fig
