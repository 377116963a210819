"""The figures of EIW-Flow's targets, from made-up numbers: whole, in part, and what they show."""

import pandas as pd
import pytest
from eiw_numbers import TARGETS, made_up, observed

from reproduce.eiw_flow.figures import MODES
from reproduce.papers import printed
from reproduce.tables import Observed
from reproduce.target import named

SHOWN = [t for t in TARGETS.values() if t.figure.split(":")[0].endswith(
    ("order_figures", "density_figures", "sweep_figures", "feature_figures", "cost_figures")
)]  # fmt: skip


@pytest.fixture
def draw():
    """Draws what was observed, to the last text; warnings are errors."""
    import matplotlib.pyplot as plt

    made = []

    def drawn(seen: Observed):
        made.append(named(seen.target.figure)(seen, []))
        made[-1].canvas.draw()
        return made[-1]

    yield drawn
    for fig in made:
        plt.close(fig)


def cut_off(fig) -> list[str]:
    """The titles and legend entries that do not lie within the figure."""
    width, height = fig.canvas.get_width_height()
    texts = [fig._suptitle, *(t for one in fig.legends for t in one.get_texts())]
    boxes = {t.get_text(): t.get_window_extent() for t in texts if t is not None}
    return [
        text for text, box in boxes.items()
        if box.x0 < -2 or box.x1 > width + 2 or box.y0 < -2 or box.y1 > height + 2
    ]  # fmt: skip


def seen_of(name: str, tier: str = "small", number=None) -> Observed:
    return observed(TARGETS[name], tier, made_up(TARGETS[name], tier, number))


@pytest.mark.parametrize("target", SHOWN, ids=lambda t: t.id)
def test_everything_is_drawn(target, draw):
    fig = draw(seen_of(target.id))
    assert all(ax.has_data() for ax in fig.axes)
    assert all(ax.get_xlabel() or ax.get_xticklabels() for ax in fig.axes)
    assert not cut_off(fig)


@pytest.mark.parametrize("target", SHOWN, ids=lambda t: t.id)
def test_what_is_there_is_drawn(target, draw):
    """One cell, and one seed of every arm but the first, to which many are compared."""
    rows = made_up(target, "small")
    first, last = rows["cell"].iloc[0], rows["cell"].iloc[-1]
    axes = [k for arm in target.arms("small")[:1] for k in arm.axes]
    arm = rows[rows["cell"] == first][axes].drop_duplicates()
    others = rows.merge(arm, on=axes, how="left", indicator=True)
    others = others[others["_merge"] == "left_only"].drop(columns="_merge")
    for some in (
        rows[rows["cell"] == first],
        rows[rows["cell"] == last],
        others[others["seed"] == 0],
    ):
        draw(observed(target, "small", some.reset_index(drop=True)))


@pytest.mark.parametrize("tier", ["smoke", "gpu", "paper"])
def test_the_flagships_at_other_tiers(tier, draw):
    for name in ("eiw-order", "eiw-density", "eiw-lambda"):
        assert not cut_off(draw(seen_of(name, tier)))


# ------------------------------------------------------------------------------- what is shown
def _bits(metric, at):
    """Bits with known differences; the oracles' are far from all others'."""
    more = {"identity": 0.03, "reverse": 0.02, "random-1": 0.01, "random-2": -0.01, "eiw": 0.004}
    more |= {"oracle_entropy": -0.9, "anti_oracle": 0.9}
    return 3 + more.get(at["mode"], 0) + at["seed"] if metric == "bpd_iw16" else None


def points(ax, marker="o"):
    """Where single points with this marker stand."""
    return [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in ax.lines if line.get_marker() == marker and len(line.get_xdata()) == 1
    ]  # fmt: skip


def test_the_ladder_shows_every_order_beside_random_ones(draw):
    fig = draw(seen_of("eiw-order", number=_bits))
    assert [ax.get_title() for ax in fig.axes] == [
        "digits", "CIFAR-10, 16 px", "Does the order follow entropy?",
    ]  # fmt: skip
    names = [t.get_text() for t in fig.axes[0].get_yticklabels()]
    assert names == [MODES[m] if m != "random" else "5 random permutations" for m in MODES]
    for ax in fig.axes[:2]:
        x = {names[round(y)]: x for x, y in points(ax)}
        assert x["Shuffle"] == pytest.approx(0.004)  # random ones: 0.01, -0.01 and three zeros
        assert x["vanilla"] == pytest.approx(0.03)
        assert x[MODES["anti_oracle"]] == pytest.approx(0.9)
        assert ax.get_xscale() == "symlog"  # the margin is seen all the same
        spans = sorted(p.get_extents().transformed(ax.transData.inverted()).x1
                       for p in ax.patches)  # fmt: skip
        assert spans == pytest.approx([0.01, 0.01])  # of the margin, and of the random ones
        low, high = ax.get_ylim()
        assert low > high  # the first order on top


def test_the_interval_is_that_of_paired_seeds(draw):
    """A shift that all arms of a seed share widens no interval of a difference."""
    fig = draw(seen_of("eiw-density", number=_bits))
    widths = [
        float(abs(line.get_xdata()[1] - line.get_xdata()[0]))
        for line in fig.axes[0].lines if line.get_linewidth() == 2
    ]  # fmt: skip
    assert max(widths, default=0.0) < 1e-6


def test_the_papers_numbers_are_there(draw):
    density, ks, weights = (
        draw(seen_of(name)) for name in ("eiw-density", "eiw-gaussianity", "eiw-lambda")
    )
    known = {(r["key"], *r["at"].values()): r["value"] for r in printed("eiw-flow")}
    gain = known["density/bpd", "cifar10", "eiw"] - known["density/bpd", "cifar10", "identity"]
    dotted = {float(v) for ax in density.axes for v in _verticals(ax)}
    assert any(v == pytest.approx(gain) for v in dotted)
    assert gain == pytest.approx(-0.01)
    text = " ".join(t.get_text() for one in density.legends for t in one.get_texts())
    assert "not comparable" in text
    for ax in ks.axes:
        assert sorted(_verticals(ax)) == [0.12, 0.91]
    for ax, power in zip(weights.axes, (-3, -3, -4), strict=False):
        assert _verticals(ax) == [power]
    zero = weights.axes[0].get_xticks()[0]
    assert zero < -5  # left of all logarithms
    assert weights.axes[0].get_xticklabels()[0].get_text() == "0"


def _verticals(ax) -> list[float]:
    return [
        float(line.get_xdata()[0]) for line in ax.lines
        if line.get_linestyle() == ":" and len({*line.get_xdata()}) == 1
    ]  # fmt: skip


def test_nothing_heavy_is_imported():
    import subprocess
    import sys

    modules = sorted({t.figure.split(":")[0] for t in SHOWN} | {
        t.derive.split(":")[0] for t in SHOWN if t.derive
    })  # fmt: skip
    code = f"import sys, {', '.join(modules)}; print({{'torch', 'matplotlib'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_rows_of_random_permutations_are_means_over_seeds(draw):
    fig = draw(seen_of("eiw-order", number=_bits))
    y = list(MODES).index("random")
    shown = [line for line in fig.axes[0].lines if len(line.get_xdata()) == 5
             and set(line.get_ydata()) == {y}]  # fmt: skip
    assert len(shown) == 1
    want = pd.Series([0.0, 0.01, -0.01, 0.0, 0.0])
    assert sorted(shown[0].get_xdata()) == pytest.approx(sorted(want))
