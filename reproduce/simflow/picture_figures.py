"""The figures of SimFlow's pictures: samples under guidance, steps between images, denoising."""

from typing import Any

import numpy as np

from reproduce.figures import figure
from reproduce.plots import strip
from reproduce.tables import Observed

__all__ = ["denoise", "headline", "interpolation"]

_SHOWN, _STEPS = 10, 10


def _arrays(seen: Observed, records: list[dict[str, Any]], axis: str) -> dict[str, Any]:
    """Each arm's sidecar of the first seed, by the value of ``axis``."""
    arms = seen.cells.set_index("cell")
    seed = min((r["seed"] for r in records), default=None)
    found = {arms.loc[r["cell"]][axis]: r["arrays"] for r in records if r["seed"] == seed}
    order = list(seen.cells[axis].drop_duplicates())
    return {arm: found[arm] for arm in order if arm in found}


def headline(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Samples without guidance and at each weight of the score rule, from the same latents."""
    columns = {
        data: arrays["guidance.tiles"]
        for data, arrays in _arrays(seen, records, "data").items()
        if "guidance.tiles" in arrays
    }
    fig, axes = figure(1, max(1, len(columns)), height=3.0, width=4.6, squeeze=False)
    for ax, (data, tiles) in zip(axes[0], columns.items(), strict=False):
        names = ["none", "w = 0.5", "w = 1", "w = 2", "w = 4", "w = 10"]
        parts = np.split(tiles, range(_SHOWN, len(tiles), _SHOWN))
        rows = [(name, list(part)) for name, part in zip(names, parts, strict=False)]
        strip(ax, rows, f"{data}: one sample of each class, guided in the deep block")
    return fig


def interpolation(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Three pairs for each VAE, ten steps from one image to the other."""
    columns = _arrays(seen, records, "vae")
    fig, axes = figure(max(1, len(columns)), 1, height=1.3, width=5.4, squeeze=False)
    for ax, (vae, arrays) in zip(axes[:, 0], columns.items(), strict=False):
        if "interpolation.tiles" not in arrays:
            continue
        tiles = arrays["interpolation.tiles"]
        parts = np.split(tiles, range(_STEPS, len(tiles), _STEPS))[:3]
        name = "learnable" if vae == "learnable" else f"sigma = {vae}"
        strip(ax, [(name if i == 1 else "", list(part)) for i, part in enumerate(parts)])
    fig.suptitle("Decoded mixtures of two means, t = 0 to 1", fontsize=9)
    return fig


def denoise(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Samples as they come, and after the score step."""
    columns = {
        arm: arrays["denoising.tiles"]
        for arm, arrays in _arrays(seen, records, "blocks").items()
        if "denoising.tiles" in arrays
    }
    fig, axes = figure(1, max(1, len(columns)), height=1.8, width=4.6, squeeze=False)
    for ax, (name, tiles) in zip(axes[0], columns.items(), strict=False):
        raw, clean = np.split(tiles, 2)
        strip(ax, [("raw", list(raw[:_SHOWN])), ("denoised", list(clean[:_SHOWN]))], name)
    return fig
