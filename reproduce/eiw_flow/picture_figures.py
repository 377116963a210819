"""The figures of EIW-Flow's samples: distances beside their floor, and what latents show."""

from typing import Any

import numpy as np
import pandas as pd

from reproduce.eiw_flow.figures import DATA, MODES
from reproduce.figures import COLOURS, band, figure
from reproduce.plots import GREY, below, describe, numbers, spot, strip
from reproduce.tables import Observed

__all__ = ["pictures", "quality"]

_MODES = {"identity": MODES["identity"], "random-0": "random", "eiw": MODES["eiw"]}
_TINTS = {"identity": GREY, "random-0": COLOURS[2], "eiw": COLOURS[0]}
_METRICS = {
    "fd_classifier": ("to training images", "o", -0.13),
    "fd_classifier_held_out": ("to held-out images", "D", 0.13),
}


def quality(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """For each data set: the distance of each arm's samples over the floor; samples below."""
    present = [d for d in DATA if (seen.rows["data"] == d).any()]
    fig, axes = figure(2, len(present), height=2.6, width=4.6, squeeze=False)
    for (top, under), data in zip(axes.T, present, strict=True):
        _distances(top, seen.rows[seen.rows["data"] == data], data)
        tiles = {mode: a.get("quality.tiles") for mode, a in _arrays(seen, records, data).items()}
        rows = [(_MODES[mode], list(t)) for mode, t in tiles.items() if t is not None]
        strip(under, rows, "samples from the same noise")
    axes[0][0].set_ylabel("squared Frechet distance")
    below(fig, axes[0][0])
    n = seen.rows["seed"].nunique()
    fig.suptitle(f"Samples on the small classifier's features; {describe(n)}", fontsize=9)
    return fig


def _distances(ax: Any, rows: pd.DataFrame, data: str) -> None:
    """Arms side by side, to training and to held-out images; the floor as a line."""
    for metric, (label, marker, shift) in _METRICS.items():
        ax.plot([], [], marker, color="grey", label=label)
        for i, mode in enumerate(_MODES):
            values = numbers(rows, metric, mode=mode)
            spot(ax, i + shift, values, _TINTS[mode], upright=True, marker=marker)
    floor = rows.loc[rows["metric"] == "floor", "value"].mean()
    ax.axhline(floor, color="grey", linestyle="--", linewidth=1, label="as many real images")
    ax.set_xticks(range(len(_MODES)), list(_MODES.values()))
    ax.set_xlim(-0.5, len(_MODES) - 0.5)
    ax.set_ylim(bottom=0)
    ax.set_title(DATA[data])


# ------------------------------------------------------------------------------ pictures
_WAYS = (("all", "all scales"), ("last", "last scale"), ("pixels", "pixels mixed"))


def pictures(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """A column for each data set and order, from one seed; below, bits along the paths."""
    columns = [
        (data, mode, arrays)
        for data in DATA
        for mode, arrays in _arrays(seen, records, data).items()
        if mode != "random-0" and "pictures.line_all" in arrays
    ]
    heights = (1.7, 1.0, 0.7, 0.7, 1.5, 1.9)
    fig, axes = figure(
        len(heights),
        max(1, len(columns)),
        height=sum(heights) / len(heights) + 0.1,
        width=3.6,
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
    )
    for column, (data, mode, arrays) in zip(axes.T, columns, strict=False):
        a = {name.split(".")[1]: v for name, v in arrays.items() if name.startswith("pictures.")}
        name = f"{DATA[data]}: {_MODES[mode]}"
        strip(column[0], _temperatures(a), f"{name}\ntemperature of the last scale; of all scales")
        line = [("all scales", list(a["line_all"])), ("last scale", [None, None, *a["line_last"]])]
        strip(column[1], line, "between two images and beyond, t = -1 to 2; 0 to 1")
        turn = [("", list(a["direction"]))] if "direction" in a else []
        strip(column[2], turn, "along the direction between two classes, -1 to 1")
        strip(column[3], [("", list(a["bypassed"]))], "an image; without its 1st, its 2nd order")
        _maps(column[4], a)
        _paths(column[5], seen, records, data, mode)
    axes[-1][0].set_ylabel("bits/dim")
    below(fig, axes[-1][0])
    return fig


def _temperatures(a: dict[str, np.ndarray]) -> list[tuple[str, list[Any]]]:
    both = zip(a["temperatures_last"], a["temperatures_all"], strict=True)
    return [
        (f"{0.6 + 0.1 * i:.1f}", [*last, None, *every]) for i, (last, every) in enumerate(both)
    ]


def _maps(ax: Any, a: dict[str, np.ndarray]) -> None:
    """Channel maps (8, H, W) of each split, all drawn with the first split's side."""
    rows: list[tuple[str, list[Any]]] = []
    for k in (1, 2):
        for name in ("before", "after"):
            if (maps := a.get(f"{name}_{k}")) is not None:
                times = a["before_1"].shape[1] // maps.shape[1]
                larger = maps.repeat(times, 1).repeat(times, 2)[:, None]
                rows.append((f"split {k}, {name}", [*larger[:4], None, *larger[4:]]))
    strip(ax, rows, "first and last four channels of an image", colours="viridis")


def _paths(ax: Any, seen: Observed, records: list[dict[str, Any]], data: str, mode: str) -> None:
    """Bits of the images between, in the mean over pairs; bands over seeds."""
    arms = seen.cells.set_index("cell")[["data", "mode"]]
    key = next(e.key for e in seen.target.evaluators if e.name == "pictures")
    curves = [
        r["curves"].get(key, {}) for r in records if tuple(arms.loc[r["cell"]]) == (data, mode)
    ]
    for (name, label), colour in zip(_WAYS, COLOURS, strict=False):
        bits = [c[f"path_bpd_{name}"][-1] for c in curves if f"path_bpd_{name}" in c]
        if bits:
            band(ax, np.linspace(0, 1, len(bits[0])), bits, colour, label)
    ax.set_xlabel("t between two images")


# -------------------------------------------------------------------------------- strips
def _arrays(
    seen: Observed, records: list[dict[str, Any]], data: str
) -> dict[str, dict[str, np.ndarray]]:
    """Each arm's sidecar of the first seed, in the order of the modes."""
    arms = seen.cells.set_index("cell")
    seed = min((r["seed"] for r in records), default=None)
    found = {}
    for record in records:
        at = arms.loc[record["cell"]]
        if record["seed"] == seed and at["data"] == data:
            found[at["mode"]] = record["arrays"]
    return {mode: found[mode] for mode in _MODES if mode in found}
