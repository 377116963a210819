"""The figures of eiw-cost, eiw-resolution and eiw-invertibility."""

from typing import Any

import numpy as np

from reproduce.eiw_flow.figures import MODES
from reproduce.figures import COLOURS, band, figure
from reproduce.plots import GREY, below, named_rows, numbers, spot, wide
from reproduce.tables import Observed
from reproduce.target import Identity

__all__ = ["cost", "inversion", "resolution"]

_BLUE, _RED, _GREEN = COLOURS[:3]
_WHAT = {"train": "training step", "likelihood": "likelihood", "sample": "sample"}


# ---------------------------------------------------------------------------------- cost
def cost(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Milliseconds of a batch by side, with Shuffle and without, from the 10th to the 90th."""
    fig, axes = figure(1, len(_WHAT), height=3.4, width=3.8, squeeze=False)
    for ax, (what, title) in zip(axes[0], _WHAT.items(), strict=True):
        for arm, label, colour, shift in (
            ("vanilla", "without Shuffle", GREY, 0.97),
            ("shuffle", "with Shuffle", _BLUE, 1.03),
        ):
            names = (f"{what}_{arm}_ms", f"{what}_{arm}_p10_ms", f"{what}_{arm}_p90_ms")
            tables = [wide(seen.rows, name, "side").mean() for name in names]
            middle, low, high = (t.reindex(tables[0].index).to_numpy() for t in tables)
            if len(middle):
                ax.errorbar(
                    tables[0].index * shift, middle, [middle - low, high - middle], color=colour,
                    marker="o", markersize=4, linewidth=1.2, capsize=2, label=label,
                )  # fmt: skip
        ax.set(xscale="log", yscale="log", xlabel="side of the image (pixels)", title=title)
        _sides(ax, seen)
        ax.margins(y=0.16)
        ratio = wide(seen.rows, f"wall_ratio_{what}", "side").mean()
        for side, value in ratio.items():
            ax.annotate(
                f"× {value:.2f}", (side, 0.02), xycoords=ax.get_xaxis_transform(), ha="center",
                fontsize=7,
            )  # fmt: skip
    axes[0][0].set_ylabel("ms a batch of 16")
    below(fig, axes[0][0])
    title = "Medians with the 10th and 90th percentile; below: median ratio, paired by turn"
    published = [numbers(seen.rows, f"published_{m}") for m in ("vanilla", "more", "percent")]
    if all(len(p) for p in published):
        vanilla, more, percent = (p.iloc[0] for p in published)
        title = f"Published flow: {vanilla:,.0f} parameters; Shuffle adds {more:,.0f}, " + (
            f"{percent:.4f} % (paper: about 270 K)\n{title}"
        )
    fig.suptitle(title, fontsize=9)
    return fig


def _sides(ax: Any, seen: Observed) -> None:
    sides = sorted(seen.rows["side"].unique())
    ax.set_xticks(sides, sides)
    ax.minorticks_off()
    ax.set_xlim(sides[0] / 1.4, sides[-1] * 1.4)


def resolution(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Left: time with Shuffle over time without, by side. Right: the order's parameters."""
    fig, (left, right) = figure(1, 2, height=3.6, width=4.6)
    for colour, (what, name) in zip(COLOURS, _WHAT.items(), strict=False):
        ratios = wide(seen.rows, f"wall_ratio_{what}", "side")
        if ratios.size:
            band(left, list(ratios.columns), ratios, colour, name)
    left.axhline(1, color="black", linewidth=0.9)
    left.axhline(1.05, color="black", linestyle=":", label="1.05: at most, from 32 pixels on")
    left.set(ylabel="time with Shuffle over time without", title="Time")
    count = wide(seen.rows, "order_parameters", "side").mean()
    if len(count):
        right.plot(count.index, count, "o-", color=_BLUE, label="solvers and guiders")
        right.set_ylim(0, 1.25 * count.max())
    for claim in seen.target.claims:
        if isinstance(claim, Identity) and claim.metric == "order_parameters":
            label = f"{claim.equals:,.0f}, by the formula"
            right.axhline(claim.equals, color="black", linestyle=":", label=label)
    right.set(ylabel="trainable parameters", title="Parameters of the order")
    for ax in (left, right):
        ax.set(xscale="log", xlabel="side of the image (pixels)")
        _sides(ax, seen)
        ax.legend(fontsize=7)
    n = seen.rows["seed"].nunique()
    kind = f"mean and range of {n} runs" if n > 1 else "one run"
    fig.suptitle(f"The overhead of Shuffle as images grow: Glow, batch 16, {kind}", fontsize=9)
    return fig


# ----------------------------------------------------------------------------- inversion
_EXACT = 1e-17  # where an error of zero is drawn


def inversion(seen: Observed, records: list[dict[str, Any]]) -> Any:
    """Left: errors of round trips. Right: how far solvers of the published widths saturate."""
    rows = seen.rows
    modes = list(dict.fromkeys(rows["mode"]))
    fig, (left, right) = figure(1, 2, height=3.4, width=4.8)
    for name, colour, most in (("double", _BLUE, 1e-9), ("single", _RED, 1e-4)):
        for y, mode in enumerate(modes):
            errors = numbers(rows, f"error_{name}", mode=mode).clip(lower=_EXACT)
            left.plot(errors, [y] * len(errors), "|", color=colour, markersize=11)
        left.axvline(most, color=colour, linestyle=":")
        left.plot([], [], "|", color=colour, label=f"float{32 if most > 1e-5 else 64}: < {most:g}")
    left.set(xscale="log", xlabel="greatest error of a round trip (dotted: what is asked)")
    left.set_xlim(_EXACT / 3, 1e-2)
    left.set_title("Trained flows, each seed")
    named_rows(left, [MODES.get(m.split("-")[0], MODES.get(m, m)) for m in modes])

    first = rows[rows["mode"] == modes[0]]  # the published solvers are the same in every arm
    labels = []
    for y, channels in enumerate((248, 616)):
        spot(right, y, numbers(first, f"zeros_{channels}"), _RED)
        kept = numbers(first, f"kept_as_vanilla_{channels}")
        spot(right, y, kept, _BLUE, marker="s")
        facts = [f"{channels} channels"]
        for metric, words in (("finite", "trains without NaN"), ("bijection", "a bijection")):
            values = numbers(first, f"{metric}_{channels}")
            if len(values):
                facts.append(f"{words}: {int(values.sum())} of {len(values)}")
        labels.append("\n".join(facts))
    right.plot([], [], "o", color=_RED, label="probabilities that are exactly 0")
    right.plot([], [], "s", color=_BLUE, label="kept channels that vanilla keeps too")
    right.axvline(0.5, color="black", linestyle=":", linewidth=0.9)
    right.set(xlim=(-0.03, 1.03), xlabel="share", title="Solvers of the published widths")
    named_rows(right, labels)
    right.set_ylim(1.7, -0.7)
    below(fig, left, right)
    ties = rows[rows["metric"] == "ties"]["value"]
    same = rows[rows["metric"] == "orders_reloaded"]["value"]
    if len(ties) and len(same):
        fig.suptitle(
            f"Orders equal after a reload: {int(same.sum())} of {len(same)} flows; most tied "
            f"channels in one: {int(np.nan_to_num(ties.max()))}",
            fontsize=9,
        )
    return fig
