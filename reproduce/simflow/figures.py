"""The figures of SimFlow's numbers: arms side by side, and curves along what is swept."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from reproduce.figures import COLOURS, band, figure
from reproduce.papers import printed
from reproduce.plots import GREY, below, describe, numbers, spot, wide
from reproduce.simflow.variants import FLOOR
from reproduce.tables import Observed

__all__ = [
    "DATA", "alignment", "collapse", "convergence", "density", "guidance", "latent", "resolution",
    "robustness", "sampling", "scale", "stopgrad", "tradeoff", "variance", "variants",
]  # fmt: skip

DATA = {
    "digits": "digits",
    "mnist16": "MNIST, 16 px",
    "cifar16": "CIFAR-10, 16 px",
    "cifar32": "CIFAR-10, 32 px",
    "imagenet64": "ImageNet, 64 px",
    "imagenet256": "ImageNet, 256 px",
    "imagenet512": "ImageNet, 512 px",
}
NAMES = {
    "gfd_classifier": "distance of samples",
    "rfd_classifier": "distance of reconstructions",
    "psnr": "PSNR (dB)",
    "accuracy": "share of the class asked for",
    "nll": "NLL (nats/dim)",
    "rate": "rate (nats/dim)",
    "snr": "signal over noise",
    "sigma": r"$\sigma$ of the noise",
    "std": "deviation of the means",
    "hf_ratio": "share of power at high frequencies",
    "spectral_entropy": "spectral entropy",
    "autocorrelation": "correlation of neighbours",
    "total_variation": "total variation",
    "total_variation_standardised": "the same, standardised",
    "alignment": "1 - cos to the teacher",
    "roundtrip": "round-trip error",
    "bpd": "bits/dim",
}


# ------------------------------------------------------------------------------ arms side by side
def _arms(
    seen: Observed,
    axis: str,
    metrics: Sequence[str],
    title: str,
    order: Sequence[str] | None = None,
    width: float = 2.5,
) -> tuple[Any, dict[str, Any]]:
    """A panel for each metric, the values of ``axis`` from top to bottom."""
    rows = seen.rows
    values = [v for v in order or rows[axis].drop_duplicates() if (rows[axis] == v).any()]
    fig, axes = figure(
        1, len(metrics), height=0.9 + 0.42 * len(values), width=width, squeeze=False, sharey=True
    )
    for ax, metric in zip(axes[0], metrics, strict=True):
        for i, value in enumerate(values):
            spot(ax, i, numbers(rows, metric, **{axis: value}), COLOURS[i % len(COLOURS)])
        ax.set_xlabel(NAMES.get(metric, metric))
        ax.locator_params(axis="x", nbins=5)
    axes[0][0].set_yticks(range(len(values)), [str(v) for v in values])
    axes[0][0].set_ylim(len(values) - 0.5, -0.5)
    fig.suptitle(f"{title}; {describe(rows['seed'].nunique())}", fontsize=9)
    return fig, dict(zip(metrics, axes[0], strict=True))


def collapse(seen: Observed, records: list[dict[str, Any]]) -> Any:
    fig, panels = _arms(
        seen, "variance", ("nll", "sigma", "std", "psnr", "gfd_classifier"),
        "End to end, with and without a fixed variance",
    )  # fmt: skip
    panels["nll"].axvline(FLOOR, color=GREY, linestyle="--", label="bound of the fixed variance")
    for name in ("sigma", "gfd_classifier"):
        panels[name].set_xscale("log")
    below(fig, panels["nll"])
    return fig


def stopgrad(seen: Observed, records: list[dict[str, Any]]) -> Any:
    metrics = ("nll", "psnr", "hf_ratio", "gfd_classifier", "accuracy")
    return _arms(seen, "gradient", metrics, "The flow's gradient in the encoder")[0]


def alignment(seen: Observed, records: list[dict[str, Any]]) -> Any:
    metrics = ("alignment", "gfd_classifier", "accuracy", "psnr", "nll")
    return _arms(seen, "alignment", metrics, "Alignment with a frozen teacher")[0]


def scale(seen: Observed, records: list[dict[str, Any]]) -> Any:
    return _arms(seen, "size", ("nll", "gfd_classifier", "accuracy"), "Two sizes of the flow")[0]


def resolution(seen: Observed, records: list[dict[str, Any]]) -> Any:
    metrics = ("roundtrip", "nll", "psnr", "accuracy")
    fig, panels = _arms(seen, "tokens", metrics, "Four times the tokens")
    panels["roundtrip"].set_xscale("log")
    panels["roundtrip"].axvline(1e-4, color=GREY, linestyle="--", label="tolerance")
    below(fig, panels["roundtrip"])
    return fig


def latent(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """The paper's values as hollow squares where it prints any: of other latents than ours."""
    metrics = (
        "hf_ratio", "spectral_entropy", "autocorrelation", "total_variation",
        "total_variation_standardised", "std",
    )  # fmt: skip
    fig, panels = _arms(seen, "variant", metrics, "Statistics of the latents' means", width=2.3)
    order = list(seen.rows["variant"].drop_duplicates())
    for metric, key in seen.target.printed.items():
        for row in printed("simflow"):
            if row["key"] == key and row["at"]["variant"] in order:
                panels[metric].plot(
                    row["value"], order.index(row["at"]["variant"]) + 0.22, "s", color="black",
                    markerfacecolor="none", markersize=5, label=_PAPER,
                )  # fmt: skip
    below(fig, panels["hf_ratio"])
    return fig


_PAPER = "paper: ImageNet, 16 x 16 x 64 latents, not comparable"


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
    """A row for each data set: samples, class, reconstructions, and the two against each other."""
    from reproduce.simflow.arms import VARIANTS

    sets = [d for d in DATA if (seen.rows["data"] == d).any()]
    metrics = ("gfd_classifier", "accuracy", "psnr", "rate")
    fig, axes = figure(len(sets), len(metrics) + 1, height=2.6, width=2.9, squeeze=False)
    for line, data in zip(axes, sets, strict=True):
        rows = seen.rows[seen.rows["data"] == data]
        for ax, metric in zip(line, metrics, strict=False):
            for i, variant in enumerate(VARIANTS):
                spot(ax, i, numbers(rows, metric, variant=variant), COLOURS[i])
            ax.set_ylim(len(VARIANTS) - 0.5, -0.5)
            ax.set_yticks(range(len(VARIANTS)), list(VARIANTS) if ax is line[0] else [])
            ax.set_xlabel(NAMES[metric])
        floor = rows.loc[rows["metric"] == "floor", "value"].mean()
        line[0].axvline(floor, color=GREY, linestyle="--", label="two halves of real images")
        line[0].set_xlim(left=0)
        line[0].set_title(DATA[data], loc="left")
        for i, variant in enumerate(VARIANTS):
            x, y = (numbers(rows, m, variant=variant).mean() for m in ("psnr", "gfd_classifier"))
            line[-1].plot(x, y, "o", color=COLOURS[i])
        line[-1].set(xlabel=NAMES["psnr"], ylabel=NAMES["gfd_classifier"])
    below(fig, axes[0][0])
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
    below(fig, axes[0])
    return fig


def variance(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Along sigma, with the learnable arm as a line across."""
    fixed = seen.rows[seen.rows["sigma"] != "learnable"]
    metrics = ("psnr", "gfd_classifier", "accuracy", "rate", "snr")
    fig, axes = figure(1, len(metrics), height=2.7, width=2.7)
    for ax, metric in zip(axes, metrics, strict=True):
        table = wide(fixed.assign(sigma=fixed["sigma"].astype(float)), metric, "sigma")
        if not table.empty:
            band(ax, list(table.columns), table.to_numpy(), COLOURS[0], "fixed")
        free = numbers(seen.rows, metric, sigma="learnable")
        if len(free):
            ax.axhline(free.mean(), color=COLOURS[1], linestyle="--", label="learnable, with H(q)")
        ax.set(xlabel=r"$\bar\sigma$", ylabel=NAMES[metric])
    rows = [r for r in printed("simflow") if r["key"] == "variance/PSNR"]
    twin = axes[0].twinx()
    twin.plot(
        [float(r["at"]["sigma"]) for r in rows], [r["value"] for r in rows], "s:", color="black",
        markerfacecolor="none", markersize=4, label="paper (right axis), not comparable",
    )  # fmt: skip
    twin.grid(False)
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
            if row["key"].startswith("robustness/PSNR") and row["at"]["vae"] == vae
        }
        axes[2].plot(list(found), list(found.values()), "s:", color=colour, markersize=4)
    axes[0].set(title="ours", xlabel="noise added", ylabel="PSNR (dB)")
    axes[1].set(title="ours", xlabel="noise in units of the means' deviation")
    axes[2].set(title="paper, ImageNet 256: not comparable", xlabel="noise added")
    below(fig, axes[0])
    return fig


def convergence(seen: Observed, records: list[dict[str, Any]]) -> Any:
    fig, axes = figure(1, 4, height=2.7, width=2.9)
    names = {
        "gfd_along": NAMES["gfd_classifier"],
        "accuracy_along": NAMES["accuracy"],
        "nll_along": NAMES["nll"],
        "psnr_along": NAMES["psnr"],
    }
    for ax, (metric, name) in zip(axes, names.items(), strict=True):
        for colour, arm in zip(COLOURS, ("none", "REPA-E"), strict=False):
            label = "SimFlow" if arm == "none" else "with alignment"
            _along(ax, seen, metric, "updates", colour, label, alignment=arm)
        ax.set(xlabel="updates", ylabel=name)
    below(fig, axes[0])
    return fig


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
    fig, axes = figure(1, 4, height=2.6, width=2.8)
    names = {
        "calls": "network calls",
        "tokens": "tokens evaluated a sample",
        "ms": "ms a batch of 50",
        "error": "greatest relative error",
    }
    for ax, (metric, name) in zip(axes, names.items(), strict=True):
        for i, way in enumerate(_WAYS):
            values = numbers(seen.rows, f"{metric}_{way}")
            spot(ax, i, values.clip(lower=1e-9) if metric == "error" else values, COLOURS[i])
        ax.set_yticks(range(len(_WAYS)), list(_WAYS.values()) if ax is axes[0] else [])
        ax.set_ylim(len(_WAYS) - 0.5, -0.5)
        ax.set(xlabel=name, xscale="log")
    fig.suptitle(
        f"One inverse, found in several ways; {describe(seen.rows['seed'].nunique())}", fontsize=9
    )
    return fig
