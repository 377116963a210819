"""The figures of SimFlow's numbers: arms side by side, and curves along what is swept."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from reproduce.figures import COLOURS, band, figure
from reproduce.papers import printed
from reproduce.plots import GREY, below, describe, numbers, spot, strip, wide
from reproduce.simflow.panels import (
    DATA,
    NAMES,
    arms,
    arrays,
    entropies,
    grid,
    high_bins,
    paper_spots,
    spectra,
)
from reproduce.simflow.variants import FLOOR
from reproduce.tables import Observed

__all__ = [
    "alignment", "collapse", "convergence", "density", "guidance", "latent", "resolution",
    "robustness", "sampling", "scale", "stopgrad", "tradeoff", "variance", "variants",
]  # fmt: skip


def _paper(seen: Observed, what: str) -> str:
    """What the paper's marks are called: those of another data set are no measure of ours."""
    return f"paper: {what}" + ("" if seen.tier == "paper" else ", not comparable")


# ------------------------------------------------------------------------------ arms side by side
def collapse(seen: Observed, records: list[dict[str, Any]]) -> Any:
    rows = seen.rows
    names = rows["variance"] + ", " + rows["updates"].astype(str) + " updates"
    fig, panels, _ = arms(
        replace(seen, rows=rows.assign(arm=names)), "arm",
        ("nll", "sigma", "std", "psnr", "gfd_classifier", "rate"),
        "End to end, with and without a fixed variance",
    )  # fmt: skip
    panels["nll"].axvline(FLOOR, color=GREY, linestyle="--", label="bound of the fixed variance")
    for name in ("sigma", "gfd_classifier"):
        panels[name].set_xscale("log")
    below(fig, panels["nll"])
    return fig


def stopgrad(seen: Observed, records: list[dict[str, Any]]) -> Any:
    metrics = ("nll", "psnr", "gfd_classifier", "accuracy", "hf_ratio", "hf_ratio_centred")
    return arms(seen, "gradient", metrics, "The flow's gradient in the encoder")[0]


def alignment(seen: Observed, records: list[dict[str, Any]]) -> Any:
    metrics = ("alignment", "nll", "psnr", "gfd_classifier", "accuracy", "hf_ratio")
    return arms(seen, "alignment", metrics, "Alignment with a frozen teacher")[0]


def scale(seen: Observed, records: list[dict[str, Any]]) -> Any:
    return arms(seen, "size", ("nll", "gfd_classifier", "accuracy"), "Two sizes of the flow")[0]


def resolution(seen: Observed, records: list[dict[str, Any]]) -> Any:
    metrics = ("roundtrip", "nll", "psnr")
    fig, panels, _ = arms(seen, "tokens", metrics, "Four times the tokens")
    panels["roundtrip"].set_xscale("log")
    panels["roundtrip"].axvline(1e-4, color=GREY, linestyle="--", label="tolerance")
    panels["roundtrip"].set_ylabel("tokens")
    below(fig, panels["roundtrip"])
    return fig


def latent(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Statistics of the latents, and the spectra and entropies behind them, all seeds together."""
    metrics = (
        "hf_ratio", "spectral_entropy", "autocorrelation", "hf_ratio_centred",
        "spectral_entropy_centred", "std", "total_variation", "total_variation_standardised",
        "mean_abs",
    )  # fmt: skip
    fig, panels, rest = arms(seen, "variant", metrics, "Statistics of the latents' means", more=3)
    order = list(seen.rows["variant"].drop_duplicates())
    label = _paper(seen, "ImageNet, 16 x 16 x 64 latents")
    for metric, key in seen.target.printed.items():
        paper_spots(panels[metric], key, "variant", order, label)
    for suffix, ax, what in (("", rest[0], ""), ("_centred", rest[1], ", centred")):
        maps = arrays(seen, records, f"latents.spectrum{suffix}", "variant")
        spectra(ax, maps, order)
        ax.set_title(f"mean spectrum{what}", fontsize=8)
        for side in {len(found[0]) for found in maps.values()}:
            panels[f"hf_ratio{suffix}"].axvline(
                high_bins(side), color=GREY, linestyle="--", label="white"
            )
    entropies(rest[2], arrays(seen, records, "latents.entropies", "variant"), order)
    modes = [r for r in printed("simflow") if r["key"] == "latent/mode of spectral entropy"]
    label = _paper(seen, "mode of the density")
    for value in sorted({r["value"] for r in modes}):
        rest[2].axvline(value, color="black", linestyle=":", linewidth=1, label=label)
    below(fig, rest[0], panels["hf_ratio"], rest[2])
    return fig


def density(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """A panel for each data set; independent normal pixels as a line."""
    sets = [d for d in DATA if (seen.rows["data"] == d).any()]
    fig, axes = figure(1, len(sets), height=1.9, width=4.0, squeeze=False)
    for ax, data in zip(axes[0], sets, strict=True):
        rows = seen.rows[seen.rows["data"] == data]
        models = list(rows["model"].drop_duplicates())
        for i, model in enumerate(models):
            spot(ax, i, numbers(rows, "bpd", model=model), COLOURS[i])
        gauss = rows.loc[rows["metric"] == "bpd_gaussian", "value"].mean()
        ax.axvline(gauss, color=GREY, linestyle="--", label="independent normal pixels")
        ax.set_yticks(range(len(models)), models)
        ax.set_ylim(len(models) - 0.5, -0.5)
        ax.set(xlabel="bits/dim of held-out images", title=DATA[data])
    below(fig, *axes[0])
    return fig


def variants(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Two rows for each data set: samples, class, reconstructions, how they go together, tiles."""
    from reproduce.simflow.arms import VARIANTS

    label = _paper(seen, "ImageNet 256")
    names, tiles = list(VARIANTS), arrays(seen, records, "generation.tiles", "data", "variant")
    sets = [d for d in DATA if (seen.rows["data"] == d).any()]
    fig, axes = grid(6 * len(sets), height=2.3, width=3.5)
    for k, data in enumerate(sets):
        rows, panels = seen.rows[seen.rows["data"] == data], axes[6 * k : 6 * k + 6]
        for j, metric in enumerate(("gfd_classifier", "accuracy", "psnr", "rate")):
            ax = panels[j]
            for i, variant in enumerate(names):
                spot(ax, i, numbers(rows, metric, variant=variant), COLOURS[i])
            ax.set_ylim(len(names) - 0.5, -0.5)
            ax.set_yticks(range(len(names)), [] if j % 3 else names)
            ax.set_xlabel(NAMES[metric])
        floor = rows.loc[rows["metric"] == "floor", "value"].mean()
        panels[0].axvline(floor, color=GREY, linestyle="--", label="as many real images")
        panels[0].set_xlim(left=0)
        panels[0].set_title(DATA[data], loc="left")
        paper_spots(panels[2], "variants/PSNR", "variant", names, label)
        for i, variant in enumerate(names):
            x, y = (numbers(rows, m, variant=variant).mean() for m in ("psnr", "gfd_classifier"))
            panels[4].plot(x, y, "o", color=COLOURS[i])
        panels[4].set(xlabel=NAMES["psnr"], ylabel=NAMES["gfd_classifier"])
        shown = {v: tiles[data, v][0][:10] for v in names if (data, v) in tiles}
        tiled = [(variant, list(found)) for variant, found in shown.items()]
        strip(panels[5], tiled, "a sample of each class")
    below(fig, axes[0], axes[2])
    fig.suptitle(
        f"From frozen to end to end; {describe(seen.rows['seed'].nunique())}\n"
        "squared Frechet distances on a small classifier's features, not comparable with FID",
        fontsize=9,
    )
    return fig


# --------------------------------------------------------------------------------------- curves
def _along(ax: Any, seen: Observed, metric: str, axis: str, colour: str, label: str, **at) -> None:
    """Mean over seeds as a line and their range as a band."""
    table = wide(seen.rows, metric, axis, **at)
    if not table.empty:
        band(ax, [float(v) for v in table.columns], table.to_numpy(), colour, label)


def tradeoff(seen: Observed, records: list[dict[str, Any]]) -> Any:
    fig, axes = figure(1, 4, height=2.6, width=2.9)
    for ax, metric in zip(axes, ("psnr", "rate", "snr", "gfd_classifier"), strict=True):
        _along(ax, seen, metric, "lam", COLOURS[0], "mean and range of seeds")
        ax.set(xscale="log", xlabel=r"$\lambda$ of the NLL per dimension", ylabel=NAMES[metric])
        values = sorted(seen.rows["lam"].unique())
        ax.set_xticks(values, [f"{v:g}" for v in values])
        ax.minorticks_off()
    axes[-1].set_yscale("log")
    below(fig, axes[0])
    return fig


def variance(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Along sigma, with the learnable arm as a line across."""
    fixed = seen.rows[seen.rows["sigma"] != "learnable"]
    metrics = ("psnr", "gfd_classifier", "accuracy", "rate", "snr", "std")
    fig, axes = grid(len(metrics), height=2.5, width=3.5)
    for ax, metric in zip(axes, metrics, strict=True):
        table = wide(fixed.assign(sigma=fixed["sigma"].astype(float)), metric, "sigma")
        if not table.empty:
            band(ax, list(table.columns), table.to_numpy(), COLOURS[0], "fixed")
        free = numbers(seen.rows, metric, sigma="learnable")
        if len(free):
            ax.axhline(free.mean(), color=COLOURS[1], linestyle="--", label="learnable, with H(q)")
        ax.set(xlabel=r"$\bar\sigma$ of the posterior", ylabel=NAMES[metric])
    rows = [r for r in printed("simflow") if r["key"] == "variance/PSNR"]
    twin = axes[0].twinx()
    twin.plot(
        [float(r["at"]["sigma"]) for r in rows], [r["value"] for r in rows], "s:", color="black",
        markerfacecolor="none", markersize=4, label=f"{_paper(seen, 'ImageNet 256')} (right axis)",
    )  # fmt: skip
    twin.grid(False)
    twin.spines["right"].set_visible(True)
    below(fig, axes[0], twin)
    fig.suptitle("End to end with each variance; bands: range of seeds", fontsize=9)
    return fig


def robustness(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """PSNR by noise level: ours, ours in units of the latents' deviation, the paper's."""
    from reproduce.simflow.latents import LEVELS

    vaes = list(seen.rows["vae"].drop_duplicates())
    fig, axes = figure(1, 3, height=3.0, width=3.6)
    levels = [float(level) for level in LEVELS]
    for colour, vae in zip(COLOURS, vaes, strict=False):
        label = vae if vae == "learnable" else rf"$\bar\sigma$ = {vae}"
        for ax, unit in ((axes[0], ""), (axes[1], "relative_")):
            table = pd.DataFrame(
                {x: numbers(seen.rows, f"psnr_{unit}{t}", vae=vae) for x, t in
                 zip(levels, LEVELS, strict=True)}
            ).dropna()  # fmt: skip
            if len(table):
                band(ax, levels, table.to_numpy(), colour, label)
        found = {
            float(row["key"].split("_")[1]): row["value"]
            for row in printed("simflow")
            if row["key"].startswith("robustness/PSNR") and str(row["at"]["vae"]) == str(vae)
        }
        axes[2].plot(list(found), list(found.values()), "s:", color=colour, markersize=4)
    axes[0].set(title="ours", xlabel="noise added", ylabel="PSNR (dB)")
    axes[1].set(title="ours", xlabel="noise in units of the means' deviation")
    axes[2].set(title=_paper(seen, "ImageNet 256"), xlabel="noise added")
    below(fig, axes[0])
    fig.suptitle("Images decoded from means with noise; bands: range of seeds", fontsize=9)
    return fig


def convergence(seen: Observed, records: list[dict[str, Any]]) -> Any:
    names = {
        "gfd_along": NAMES["gfd_classifier"],
        "accuracy_along": NAMES["accuracy"],
        "nll_along": NAMES["nll"],
        "psnr_along": NAMES["psnr"],
    }
    arms_of = {"none": "SimFlow", "REPA-E": "with alignment"}
    fig, axes = grid(len(names) + 1, height=2.5, width=3.5)
    for ax, (metric, name) in zip(axes, names.items(), strict=False):
        for colour, (arm, label) in zip(COLOURS, arms_of.items(), strict=False):
            _along(ax, seen, metric, "updates", colour, label, alignment=arm)
        ax.set(xlabel="updates", ylabel=name)
    for colour, arm in zip(COLOURS, arms_of, strict=False):
        rows = [
            r for r in printed("simflow")
            if r["key"] == "convergence/gFID_guided" and r["at"]["alignment"] == arm
        ]  # fmt: skip
        at = [r["at"]["updates"] / 1000 for r in rows]
        axes[-1].plot(at, [r["value"] for r in rows], "s:", color=colour, markersize=4)
    for row in printed("simflow"):
        if row["key"] == "others/gFID_guided" and row["at"] in _RIVALS:
            axes[-1].axhline(row["value"], color=GREY, linestyle="--", linewidth=1)
            text = f"{row['at']['method']}, {row['value']:.2f}"
            axes[-1].annotate(text, (800, row["value"]), fontsize=7, ha="right", va="bottom")
    axes[-1].set(xlabel="thousand updates", ylabel="gFID, guided")
    axes[-1].set_title("paper: ImageNet 256 on Inception, not comparable", fontsize=8)
    below(fig, axes[0])
    fig.suptitle("Along training, without guidance; bands: range of seeds", fontsize=9)
    return fig


_RIVALS = [{"data": "imagenet256", "method": name} for name in ("STARFlow", "DiT")]


def guidance(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Distance, class and variety by weight, a line for each rule and choice of blocks."""
    from reproduce.simflow.headline import RULES, WEIGHTS

    metrics: Mapping[str, str] = {
        "gfd_classifier": NAMES["gfd_classifier"],
        "accuracy": NAMES["accuracy"],
        "precision": "precision",
        "recall": "recall",
    }
    fig, axes = figure(1, len(metrics), height=2.9, width=2.9)
    for ax, (metric, name) in zip(axes, metrics.items(), strict=True):
        for colour, rule in zip(COLOURS, RULES, strict=False):
            columns = {0.0: numbers(seen.rows, f"{metric}_none")}
            columns |= {float(w): numbers(seen.rows, f"{metric}_{rule}_{w}") for w in WEIGHTS}
            table = pd.DataFrame(columns).dropna()
            if len(table):
                label = rule.replace("_all", ", all blocks").replace("_deep", ", deep block")
                band(ax, list(table.columns), table.to_numpy(), colour, label)
        ax.set_xscale("symlog", linthresh=0.5)
        ax.set_xticks([0, 0.5, 1, 2, 4, 10], ["0", "0.5", "1", "2", "4", "10"])
        ax.set(xlabel="weight w", ylabel=name)
    axes[0].set_yscale("log")
    below(fig, axes[0])
    fig.suptitle("Samples under guidance; bands: range of seeds", fontsize=9)
    return fig


_WAYS = {
    "naive": "naive",
    "cached": "cached",
    "jacobi": "Jacobi, from z",
    "jacobi_zero": "Jacobi, from 0",
    "gs_jacobi": "Gauss-Seidel-Jacobi, 4 windows",
    "jacobi_early": "Jacobi, stopped at 1e-3",
}


def sampling(seen: Observed, records: list[dict[str, Any]]) -> Any:
    fig, axes = figure(2, 2, height=2.2, width=4.2, squeeze=False)
    names = {
        "calls": "network calls of a batch",
        "tokens": "tokens evaluated a sample",
        "ms": "ms a batch of 50",
        "error": "greatest error, relative to the naive inverse",
    }
    for ax, (metric, name) in zip(axes.flat, names.items(), strict=True):
        for i, way in enumerate(_WAYS):
            values = numbers(seen.rows, f"{metric}_{way}")
            spot(ax, i, values[values > 0], COLOURS[i])
            if len(values) and not (values > 0).any():  # a log axis has no place for it
                ax.text(0.01, i, "0", transform=ax.get_yaxis_transform(), va="center", fontsize=8)
        ax.set_yticks(range(len(_WAYS)), [] if ax in axes[:, 1] else list(_WAYS.values()))
        ax.set_ylim(len(_WAYS) - 0.5, -0.5)
        ax.set(xlabel=name, xscale="log")
    axes[1, 1].axvline(1e-4, color=GREY, linestyle="--", label="tolerance")
    below(fig, axes[1, 1])
    fig.suptitle(
        f"One inverse, found in several ways; {describe(seen.rows['seed'].nunique())}", fontsize=9
    )
    return fig
