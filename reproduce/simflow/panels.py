"""What SimFlow's figures are made of: names, arms side by side, spectra, the paper's marks."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from reproduce.figures import COLOURS, band, figure
from reproduce.papers import printed
from reproduce.plots import GREY, describe, numbers, spot
from reproduce.tables import Observed

__all__ = [
    "COLUMNS", "DATA", "NAMES", "arms", "arrays", "entropies", "grid", "high_bins", "paper_spots",
    "spectra",
]  # fmt: skip

COLUMNS = 3  # of panels: a README shows ten inches legibly
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
    "accuracy": "share of the right class",
    "nll": "NLL (nats/dim)",
    "rate": "rate (nats/dim)",
    "snr": "signal over noise",
    "sigma": r"$\sigma$ of the noise",
    "std": "deviation of the means",
    "mean_abs": "mean size of the means",
    "hf_ratio": "power at high frequencies",
    "hf_ratio_centred": "high frequencies, centred",
    "spectral_entropy": "spectral entropy",
    "spectral_entropy_centred": "spectral entropy, centred",
    "autocorrelation": "correlation of neighbours",
    "total_variation": "total variation",
    "total_variation_standardised": "total variation, standardised",
    "alignment": "1 - cos to the teacher",
    "roundtrip": "round-trip error",
    "bpd": "bits/dim",
}


def grid(n: int, height: float, width: float = 3.3, **options: Any) -> tuple[Any, list[Any]]:
    """A figure of ``n`` panels, three to a row; sizes are inches of one."""
    rows = -(-n // COLUMNS)
    fig, axes = figure(rows, min(n, COLUMNS), height, width, squeeze=False, **options)
    for ax in axes.flat[n:]:
        ax.set_visible(False)
    return fig, list(axes.flat[:n])


def arms(
    seen: Observed, axis: str, metrics: Sequence[str], title: str, more: int = 0
) -> tuple[Any, dict[str, Any], list[Any]]:
    """A panel for each metric, the values of ``axis`` from top to bottom; ``more`` empty ones."""
    rows = seen.rows
    values = list(rows[axis].drop_duplicates())
    height = max(0.8 + 0.3 * len(values), 2.2 if more else 0)
    fig, axes = grid(len(metrics) + more, height)
    for k, (ax, metric) in enumerate(zip(axes, metrics, strict=False)):
        for i, value in enumerate(values):
            spot(ax, i, numbers(rows, metric, **{axis: value}), COLOURS[i % len(COLOURS)])
        ax.set_xlabel(NAMES.get(metric, metric))
        ax.locator_params(axis="x", nbins=5)
        ax.set_yticks(range(len(values)), [] if k % COLUMNS else [str(v) for v in values])
        ax.set_ylim(len(values) - 0.5, -0.5)
    fig.suptitle(f"{title}; {describe(rows['seed'].nunique())}", fontsize=9)
    return fig, dict(zip(metrics, axes, strict=False)), axes[len(metrics) :]


def paper_spots(ax: Any, key: str, axis: str, order: Sequence[Any], label: str) -> None:
    """The paper's values of a key, hollow, a little below ours in the rows of ``order``."""
    places = {str(value): i for i, value in enumerate(order)}
    for row in printed("simflow"):
        if row["key"] == key and str(row["at"].get(axis)) in places:
            ax.plot(
                row["value"], places[str(row["at"][axis])] + 0.25, "s", color="black",
                markerfacecolor="none", markersize=5, label=label,
            )  # fmt: skip


# -------------------------------------------------------------------------------- from sidecars
def arrays(
    seen: Observed, records: Iterable[dict[str, Any]], name: str, *axes: str
) -> dict[tuple, list[Any]]:
    """An array of each arm, seed after seed, by the values of ``axes`` in their order."""
    arms_of = seen.cells.set_index("cell")[list(axes)]
    order = [tuple(at) for at in seen.cells[list(axes)].drop_duplicates().itertuples(index=False)]
    found: dict[tuple, list[Any]] = {at: [] for at in order}
    for record in sorted(records, key=lambda r: r["seed"]):
        if name in record["arrays"]:
            found[tuple(arms_of.loc[record["cell"]])].append(record["arrays"][name])
    return {at: values for at, values in found.items() if values}


def _radii(side: int) -> np.ndarray:
    cycles = np.fft.fftfreq(side, 1 / side)
    return np.hypot(cycles[:, None], cycles)


def high_bins(side: int) -> float:
    """Share of a square grid's frequencies above half the grid: of a white latent's power."""
    return float((_radii(side) > side / 2).mean())


def spectra(ax: Any, found: dict[tuple, list[Any]], order: Sequence[Any]) -> None:
    """Share of power of one frequency by its cycles per side, beside the white level."""
    for (arm,), maps in found.items():
        side = len(maps[0])
        radii = _radii(side)
        radii = np.round(radii, 6) if side <= 8 else np.rint(radii)
        at = np.unique(radii)
        lines = [[np.asarray(m)[radii == r].mean() for r in at] for m in maps]
        band(ax, at, np.maximum(lines, 1e-12), COLOURS[order.index(arm) % len(COLOURS)], str(arm))
    for side in {len(maps[0]) for maps in found.values()}:
        ax.axhline(1 / side**2, color=GREY, linestyle="--", label="white")
    ax.set(yscale="log", xlabel="cycles per side", ylabel="share of a frequency")


def entropies(ax: Any, found: dict[tuple, list[Any]], order: Sequence[Any]) -> None:
    """Density over the images of all seeds."""
    if not found:
        return
    whole = {arm: np.concatenate(values) for (arm,), values in found.items()}
    low = min(values.min() for values in whole.values())
    edges = np.linspace(min(low, 0.98), 1, 41)
    for arm, values in whole.items():
        density, _ = np.histogram(values, edges, density=True)
        colour = COLOURS[order.index(arm) % len(COLOURS)]
        ax.stairs(density, edges, color=colour, linewidth=1.4, label=str(arm))
    ax.set(xlabel="spectral entropy of an image", ylabel="density over images")
