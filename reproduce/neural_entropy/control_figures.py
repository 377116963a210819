"""The figures of the controls: parametrisations, architectures, memorisers, windows, dilation."""

from typing import Any

import numpy as np
import pandas as pd

from reproduce.figures import COLOURS, band, figure
from reproduce.neural_entropy.controls import CHANGES
from reproduce.neural_entropy.figures import NAMES, series
from reproduce.tables import Observed

__all__ = ["architecture", "dilation", "memorisation", "parametrisation", "window"]

_DATA = {"D2": "mixture, D = 2", "D3": "D = 3", "mnist": "MNIST", "digits": "digits"}


def parametrisation(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """L_EM and S_NN against updates, a column a process, EM beside SM."""
    processes = [p for p in NAMES if (seen.rows["process"] == p).any()]
    measures = [m for m in ("L_EM", "S_NN") if (seen.rows["metric"] == m).any()]
    fig, axes = figure(len(measures), len(processes), height=2.9, width=4.0, squeeze=False)
    for row, metric in zip(axes, measures, strict=True):
        for ax, process in zip(row, processes, strict=True):
            for colour, name in zip(COLOURS, ("em", "sm"), strict=False):
                ours = series(seen.rows, metric, process=process, parametrisation=name)
                if not ours.empty:
                    band(ax, list(ours.columns), ours.to_numpy(), colour, name.upper())
            total = series(seen.rows, "S_tot", process=process)
            if metric == "S_NN" and not total.empty:
                ax.axhline(total.to_numpy()[0, 0], color="grey", linestyle="--", label="$S_{tot}$")
            ax.set(xscale="log", yscale="log", xlabel="gradient updates", title=NAMES[process])
            ax.legend()
        row[0].set_ylabel({"L_EM": "$L_{EM}$ (nats)", "S_NN": "$S_{NN}$ (nats)"}[metric])
    return fig


def architecture(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """MLPs: S_NN and L_EM against updates; U-Nets: S_NN against channels."""
    fig, (left, middle, right) = figure(1, 3, height=3.8, width=4.0)
    rows = seen.rows[seen.rows["net"] == "MLP"]
    arms = rows[["width", "variant"]].drop_duplicates().itertuples(index=False)
    styles = {"two layers": "-", "one layer": "--", "no x embedding": ":"}
    widths = sorted(rows["width"].unique(), reverse=True)
    for width, variant in arms:
        colour = COLOURS[widths.index(width) % len(COLOURS)]
        at = {"width": width, "variant": variant}
        for ax, metric in ((left, "stored"), (middle, "L_EM")):
            ours = series(rows, metric, **at)
            if not ours.empty:
                band(ax, list(ours.columns), ours.to_numpy(), colour, f"{width}, {variant}")
                ax.lines[-1].set_linestyle(styles[variant])
    left.axhline(1, color="grey", linewidth=1)
    left.set(xscale="log", xlabel="gradient updates", ylabel="$S_{NN}$ / $S_{tot}$")
    left.set_title("MLPs, D = 3, VP: what is stored")
    middle.set(xscale="log", yscale="log", xlabel="gradient updates", ylabel="$L_{EM}$ (nats)")
    middle.set_title("and how fast")
    _legend(middle, fontsize=6.5)

    nets = seen.rows[(seen.rows["net"] == "U-Net") & (seen.rows["metric"] == "S_NN")]
    nets = nets[nets["updates"] == nets["updates"].max()]
    for colour, (variant, one) in zip(COLOURS, nets.groupby("variant", sort=False), strict=False):
        values = one.pivot_table(index="seed", columns="width", values="value")
        band(right, list(values.columns), values.to_numpy(), colour, variant)
    right.set(
        xlabel="channels", ylabel="$S_{NN}$ (nats an image)", title="U-Nets, held-out images"
    )
    _legend(right)
    return fig


def _legend(ax: Any, **options: Any) -> None:
    if ax.get_legend_handles_labels()[0]:  # without lines it would warn
        ax.legend(**options)


def memorisation(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Left: S_train from the least N on, beside one nat per e-fold; right: own and held-out."""
    fig, (left, right) = figure(1, 2, height=3.8, width=4.4)
    for colour, data in zip(COLOURS, dict.fromkeys(seen.rows["data"]), strict=False):
        own, other = (series(seen.rows, m, "N", data=data) for m in ("S_train", "S_test"))
        n = np.asarray(own.columns, float)
        fall = (own.sub(own.iloc[:, 0], axis=0)).to_numpy()
        band(left, np.log(n / n[0]).tolist(), fall, colour, _DATA[data])
        band(right, n.tolist(), own.to_numpy(), colour, f"{_DATA[data]}, own points")
        band(right, n.tolist(), other.to_numpy(), colour, f"{_DATA[data]}, held out")
        right.lines[-1].set_linestyle("--")
    end = left.get_xlim()[1]
    left.plot([0, end], [0, -end], ":", color="black", label="one nat per e-fold")
    left.set(xlabel="ln(N / least N)", ylabel="change of $S_{NN}$ on own points (nats)")
    left.set_title("Memorisers store less the more points they hold")
    left.legend()
    right.set(xscale="log", yscale="log", xlabel="points held N", ylabel="$S_{NN}$ (nats)")
    right.set_title("Own and held-out points")
    right.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return fig


def window(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """What each window changes, in per cent: mean over seeds, S_NN left and S_tot right."""
    arms = list(seen.rows[["data", "process"]].drop_duplicates().itertuples(index=False))
    means = seen.rows.groupby(["data", "process", "metric"])["value"].mean()
    panels = [
        (prefix, title, shown)
        for prefix, title in (("", "$S_{NN}$ of trained networks"), ("exact_", "$S_{tot}$, exact"))
        if (shown := [a for a in arms if (*a, f"{prefix}first_point") in means.index])
    ]
    fig, axes = figure(1, len(panels), height=4.2, width=5.2, squeeze=False)
    for ax, (prefix, title, shown) in zip(axes[0], panels, strict=True):
        table = [[means.get((*a, f"{prefix}{m}"), np.nan) * 100 for a in shown] for m in CHANGES]
        ax.imshow(np.clip(table, -10, 10), cmap="RdBu_r", vmin=-10, vmax=10, aspect="auto")
        for i, row in enumerate(table):
            for k, value in enumerate(row):
                text = "" if np.isnan(value) else f"{value:+.2f}"
                dark = abs(value) > 6
                ax.text(k, i, text, ha="center", va="center", color="white" if dark else "black")
        ax.set_xticks(range(len(shown)), [f"{_DATA[d]}\n{NAMES[p]}" for d, p in shown])
        ax.set_yticks(range(len(CHANGES)), list(CHANGES.values()))
        ax.set_title(f"{title}: change (%)")
        ax.grid(False)
    for ax in axes[0][1:]:
        ax.tick_params(labelleft=False)
    return fig


def dilation(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """S_tot, S_NN and the KL bound against d after training, a panel a mixture and process."""
    rows: pd.DataFrame = seen.rows[seen.rows["updates"] == seen.rows["updates"].max()]
    arms = list(rows[["mixture", "process"]].drop_duplicates().itertuples(index=False))
    fig, axes = figure(1, len(arms), height=3.4, width=3.6, squeeze=False)
    names = {"S_tot": "$S_{tot}$", "S_NN": "$S_{NN}$", "KL_bound": "KL bound"}
    names["S_tot_scaled"] = "$S_{tot}$, kappa along"
    for ax, (mixture, process) in zip(axes[0], arms, strict=True):
        for colour, (metric, name) in zip(COLOURS, names.items(), strict=False):
            values = series(rows, metric, "d", mixture=mixture, process=process)
            if not values.empty:
                band(ax, list(values.columns), values.to_numpy(), colour, name)
        ax.set(yscale="log", xlabel="dilation d", title=f"{mixture}, {NAMES[process]}")
        ax.legend(fontsize=7)
    axes[0][0].set_ylabel("nats")
    return fig
