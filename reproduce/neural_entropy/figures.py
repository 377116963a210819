"""The figures of Neural Entropy: what we measured beside what the paper shows."""

from typing import Any

import pandas as pd

from reproduce.figures import COLOURS, band, figure
from reproduce.papers import printed
from reproduce.tables import Observed

__all__ = ["NAMES", "analytic", "epochs", "profile", "series"]

NAMES = {"vp": "VP", "vpx": "VPx", "sl": "SL"}


def series(rows: pd.DataFrame, metric: str, along: str = "updates", **at: Any) -> pd.DataFrame:
    """A metric as a table of seeds by ``along``, from the rows whose axes have these values."""
    rows = rows[rows["metric"] == metric]
    for axis, value in at.items():
        rows = rows[rows[axis] == value]
    return rows.pivot_table(index="seed", columns=along, values="value").dropna(axis=1)


def epochs(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """S_NN against updates, one panel a process; paper's points, exact S_tot, seed band."""
    processes = [p for p in ("vpx", "sl", "vp") if (seen.rows["process"] == p).any()]
    mixtures = list(dict.fromkeys(seen.rows["mixture"]))
    fig, axes = figure(1, len(processes), height=3.6, squeeze=False)
    for ax, process in zip(axes[0], processes, strict=True):
        for colour, mixture in zip(COLOURS, mixtures, strict=False):
            ours = series(seen.rows, "S_NN", process=process, mixture=mixture)
            if ours.empty:
                continue
            band(ax, list(ours.columns), ours.to_numpy(), colour, f"{mixture}, ours")
            total = series(seen.rows, "S_tot", process=process, mixture=mixture).to_numpy()[0, 0]
            ax.axhline(total, color=colour, linestyle="--", linewidth=1)
            points = [
                (r["at"]["updates"], r["value"], r["error"])
                for r in printed(seen.target.paper)
                if r["key"] == "transport-figure/S_NN"
                and (r["at"]["process"], r["at"]["mixture"]) == (process, mixture)
            ]
            x, y, error = zip(*points, strict=True)
            ax.errorbar(
                x, y, error, color=colour, marker="s", markersize=4, markerfacecolor="none",
                linestyle=":", linewidth=0.8, elinewidth=0.8, label=f"{mixture}, paper",
            )  # fmt: skip
        ax.plot([], [], color="grey", linestyle="--", linewidth=1, label="$S_{tot}$")
        ax.set_title(NAMES[process])
        ax.set_xscale("log")
        ax.set_ylim(bottom=0)
        ax.set_xlabel("gradient updates")
    axes[0][0].set_ylabel("neural entropy $S_{NN}$ (nats)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i])
    fig.legend(
        [handles[i] for i in order], [labels[i] for i in order],
        loc="outside lower center", ncols=len(labels),
    )  # fmt: skip
    n = seen.rows["seed"].nunique()
    kind = "band: range" if n > 1 else "one"
    title = f"$S_{{NN}}$ along training, {kind} of {n} seed{'s' if n > 1 else ''}"
    if seen.tier != "paper":
        title += "; paper's points (its own network, 256 updates an epoch) are not comparable"
    fig.suptitle(title, fontsize=9)
    return fig


def profile(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Entropy rate against diffusion time at each mark, first seed, with the exact rate."""
    seed = min(r["seed"] for r in records)
    chosen = [r for r in records if r["seed"] == seed]
    fig, axes = figure(1, len(chosen), height=3.6, width=4.6, squeeze=False)
    import matplotlib

    for ax, record in zip(axes[0], chosen, strict=True):
        model, data = (record["config"][k]["init_args"] for k in ("model", "data"))
        curve = next(c for c in record["curves"].values() if "rate" in c)
        shades = matplotlib.colormaps["viridis_r"]
        marks = curve["updates"]
        for i, update in enumerate(marks):
            colour = shades(0.15 + 0.8 * i / max(1, len(marks) - 1))
            ax.plot(curve["s"][i], curve["rate"][i], color=colour, linewidth=1.2, label=update)
        ax.plot(
            curve["s"][-1], curve["rate_exact"][-1], color="black", linewidth=2, alpha=0.7,
            label="exact",
        )  # fmt: skip
        ax.set_title(f"{NAMES[model['process']]}, {data['mixture']}, seed {seed}")
        ax.set_xlabel("diffusion time s")
        ax.set_ylabel("entropy rate (nats per unit time)")
        ax.set_ylim(bottom=0)
        ax.legend(title="updates")
    return fig


def analytic(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Left: S_tot(s) of the paper's mixtures; right: how far the two computations differ."""
    fig, (left, right) = figure(1, 2, height=3.6, width=4.6)
    colours = dict(zip(NAMES, COLOURS, strict=False))
    key = seen.target.evaluators[0].key
    styles = {"D3": "-", "D6": "--", "D9": ":"}
    for record in records:
        model, data = (record["config"][k]["init_args"] for k in ("model", "data"))
        if data["mixture"] in styles:
            curve, name = record["curves"][key], NAMES[model["process"]]
            left.plot(
                curve["s"][0], curve["S_tot_until_s"][0], color=colours[model["process"]],
                linestyle=styles[data["mixture"]], label=f"{name}, {data['mixture']}",
            )  # fmt: skip
    left.set_yscale("log")
    left.set_xlabel("diffusion time s")
    left.set_ylabel("$S_{tot}$ produced until s (nats)")
    left.legend(ncols=3, fontsize=7)
    left.set_title("Entropy produced by the diffusion")

    laws = list(dict.fromkeys(seen.rows["mixture"]))
    for shift, (process, name) in zip((-0.2, 0, 0.2), NAMES.items(), strict=True):
        rows = seen.rows[(seen.rows["process"] == process) & (seen.rows["metric"] == "rel_err")]
        y = rows.groupby("mixture")["value"].first().reindex(laws).abs().clip(lower=1e-16)
        right.plot(
            [i + shift for i in range(len(laws))], y, "o", color=colours[process], label=name
        )
    exact = sum(law[0] in "GN" for law in laws)  # the tolerance of quadrature is not Monte Carlo's
    right.plot(
        [-0.4, exact - 0.6], [1e-5, 1e-5], "--", color="grey", label="tolerance, quadrature"
    )
    right.set_yscale("log")
    right.set_xticks(range(len(laws)), laws)
    right.set_xlabel("density (D3 to D9 by Monte Carlo; zero drawn at 1e-16)")
    right.set_ylabel("|score integral - KL drop| / $S_{tot}$")
    right.legend(loc="center right")
    right.set_title("Two computations of $S_{tot}$")
    return fig
