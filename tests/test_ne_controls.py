"""The controls: windows, memorisers, dilation, and what several arms show beside each other."""

import math

from datamodules import MixtureData, StoredImages
from lightning_modules.neural_entropy import MLP, PROCESSES
from lightning_modules.neural_entropy.estimators import Window, entropy_curves
from lightning_modules.neural_entropy.memoriser import Memoriser
from lightning_modules.randomness import step_generator

import pandas as pd
import pytest
import torch
from fields import exact, rng

from reproduce.cells import expand
from reproduce.neural_entropy import contrasts, control_evaluators, control_figures
from reproduce.neural_entropy.controls import CHANGES, DILATION, MEMORISATION, WINDOW
from reproduce.neural_entropy.samples import SAMPLES
from reproduce.neural_entropy.training import ARCHITECTURE, PARAMETRISATION
from reproduce.neural_entropy.transport import EPOCHS
from reproduce.tables import Observed

NE = (PARAMETRISATION, ARCHITECTURE, MEMORISATION, WINDOW, DILATION)
VP = PROCESSES["vp"]


class Network:
    """A model as evaluators see it, whose e_theta is any field."""

    device = torch.device("cpu")

    def __init__(self, field, process: str = "vp") -> None:
        self.field, self.process, self.seed = field, PROCESSES[process], 1

    def __call__(self, y, s, labels=None):
        return self.field(y, s)


def ones(y, s):
    """|e|^2 = 1 everywhere, so that the rate is beta / 2 and its integral -log mu."""
    return torch.full_like(y, y[0].numel() ** -0.5)


def until(s: float) -> float:
    return -float(VP.log_mu(torch.tensor(s, dtype=torch.float64)))


def held_out(name: str, n: int) -> MixtureData:
    return MixtureData(mixture=name, n_train=4, n_eval=n)


# ------------------------------------------------------------------------------------- windows
@pytest.mark.parametrize("kind", ["mixture", "images"])
def test_windows_of_a_known_rate(kind):
    data, own = held_out("N3", 50), 100
    if kind == "images":
        data, own = StoredImages("digits", n_per_class=2, n_eval=30), 500
    got = control_evaluators.windows(Network(ones), data)
    grid = Window.paper(own).s
    lo, hi = float(grid[0]), float(grid[-1])
    base = until(hi) - until(lo)  # the trapezoid is exact: the rate is linear
    assert got["S_NN"] == pytest.approx(base, rel=1e-6)
    others = {50, 100, 500} - {own}
    assert {k for k in got if k.startswith("times")} == {f"times_{n}" for n in others}
    for n in others:
        s = Window.paper(n).s
        change = (until(float(s[-1])) - until(float(s[0]))) / base - 1
        assert got[f"times_{n}"] == pytest.approx(change, abs=1e-6)
    assert got["first_point"] == pytest.approx((until(lo) - until(1e-5)) / base, rel=1e-5)
    assert got["log_spaced"] == pytest.approx(0, abs=1e-3)
    later = until(hi) - until(1e-3)
    assert got["from_1e-4"] == pytest.approx((until(1e-3) - until(1e-4)) / later, rel=5e-3)
    assert got["from_1e-5"] == pytest.approx((until(1e-3) - until(1e-5)) / later, rel=5e-3)
    assert ("S_tot" in got) == (kind == "mixture")


def test_windows_have_the_same_points_and_noise():
    """With fresh noise at each time three points would set the windows apart by a tenth."""
    got = control_evaluators.windows(Network(lambda y, s: y), held_out("N3", 3))
    assert abs(got["log_spaced"]) < 5e-3
    assert abs(got["times_500"]) < 0.03


def test_windows_of_the_exact_field_are_those_of_the_total():
    got = control_evaluators.windows(Network(exact("vp", "D3", 0.5)), held_out("D3", 300))
    assert got["S_NN"] == pytest.approx(0.25 * got["S_tot"], rel=1e-5)
    for metric in CHANGES:
        if metric != "times_100":
            assert got[metric] == pytest.approx(got[f"exact_{metric}"], abs=1e-5)


def test_sl_loses_two_per_cent_with_the_first_point():
    # section 4.5: 258.8 of 264.2 for D = 3
    model = Network(exact("sl", "D3"), "sl")
    got = control_evaluators.windows(model, held_out("D3", 400))
    assert got["first_point"] == pytest.approx(264.2 / 258.8 - 1, abs=2e-3)


# ------------------------------------------------------------------------------------- memorisers
def points(mixture: str, n: int, size: int) -> MixtureData:
    return MixtureData(mixture=mixture, n_train=n, n_eval=100, batch_size=size)


def test_each_row_is_led_by_the_memoriser_of_its_set():
    x = torch.randn(6, 2, generator=rng(), dtype=torch.float64)
    field = control_evaluators._memorisers(VP, x.split(2))
    owner, y = torch.tensor([2, 0, 2, 1]), torch.randn(4, 2, generator=rng(1)).double()
    s = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    for times in (s, s[:1]):
        got = field(y, times, owner)
        for i, k in enumerate(owner):
            own = times[i : i + 1] if len(times) > 1 else times
            want = Memoriser(VP, x[2 * k : 2 * k + 2])(y[i : i + 1], own)
            torch.testing.assert_close(got[i : i + 1], want)


def test_memorisers_of_a_mixture():
    got = {n: control_evaluators.memorised(Network(ones), points("D2", 128, n)) for n in (16, 64)}
    for one in got.values():
        assert abs(one["excess"]) < 4 * one["excess_se"]
        assert one["excess_se"] < 0.1
        assert one["S_train"] == pytest.approx(one["formula"] + one["overlap"] + one["excess"])
        assert one["test_over_train"] == one["S_test"] / one["S_train"] > 10
    # the same points for every N: a nat an e-fold, with little noise
    assert got[64]["formula"] - got[16]["formula"] == pytest.approx(-math.log(4), abs=2e-3)
    assert got[64]["S_train"] - got[16]["S_train"] == pytest.approx(-math.log(4), abs=0.1)


def test_memorisers_of_images():
    data = StoredImages("digits", n_per_class=10, n_eval=20, batch_size=100)
    got = control_evaluators.memorised(Network(ones), data)
    between = control_evaluators.paper_range()
    curves = entropy_curves(
        VP, Memoriser(VP, data.x_train), data.x_train, Window.exact(24, *between),
        step_generator(0, "memoriser"), rows=1 << 13,
    )  # fmt: skip
    assert got["S_train"] == pytest.approx(curves.integral("neural")[0], rel=1e-4)
    assert got["test_over_train"] > 10


@pytest.mark.parametrize(("apart", "overlap"), [(0.0, math.log(2)), (1.0, 0.0)])
def test_overlap_of_two_kernels(apart, overlap):
    x = torch.tensor([[0.0, 0.0], [apart, 0.0]], dtype=torch.float64)
    got, error = control_evaluators._overlap(VP, [x, x])
    assert got == pytest.approx(overlap, abs=1e-9)
    assert error == pytest.approx(0, abs=1e-9)


def test_the_error_is_that_of_the_noise_alone():
    each = torch.tensor([[1.0, 10.0], [3.0, 10.0]])
    assert control_evaluators._error(each) == pytest.approx(0.5)


# ------------------------------------------------------------------------------------- dilation
@pytest.mark.parametrize("process", ["vp", "vpx", "sl"])
@pytest.mark.parametrize("name", ["D3", "D3-d05", "D6-d10"])
def test_total_entropy_of_a_dilated_mixture(process, name):
    got = control_evaluators.dilated(Network(ones, process), held_out(name, 1))
    assert abs(got["scaled_err"]) < 1e-9
    known = {"D3": (1.097669, 259.88415, 259.9148), "D6": (2.91216, 564.1008, 564.14836)}
    want = dict(zip(PROCESSES, known[name[:2]], strict=True))[process]
    assert got["S_tot_scaled"] == pytest.approx(want, abs=0.02)


def test_size_counts_what_is_trained():
    assert control_evaluators.size(MLP(3, (8,), 4), None)["params"] == sum(
        p.numel() for p in MLP(3, (8,), 4).parameters()
    )


# ------------------------------------------------------------------------------------ derived rows
def frame(target, values: list[dict]) -> pd.DataFrame:
    axes = dict.fromkeys(k for arm in target.arms("small") for k in arm.axes)
    index = [target.index] if target.index else []
    return pd.DataFrame(values, columns=[*axes, "seed", *index, "metric", "value", "cell"])


def at(rows: pd.DataFrame, **where) -> list[float]:
    for axis, value in where.items():
        rows = rows[rows[axis] == value]
    return rows["value"].tolist()


def test_plateaus_and_effects():
    rows = []
    for width, variant, late in ((64, "two layers", 1.0), (32, "one layer", 0.9)):
        cell = {"net": "MLP", "width": width, "variant": variant, "seed": 1, "cell": f"m{width}"}
        for updates, value in ((10, 0.2), (50, late - 0.1), (100, late + 0.1)):
            rows.append({**cell, "updates": updates, "metric": "stored", "value": value})
    for width, variant, value in (
        (8, "attention", 10.0),
        (16, "attention", 14.0),
        (32, "attention", 15.0),
        (16, "no attention", 13.0),
        (16, "dropout 0.2", 12.0),
    ):
        cell = {"net": "U-Net", "width": width, "variant": variant, "seed": 1}
        cell |= {"cell": f"u{width}{variant}", "metric": "S_NN"}
        rows += [{**cell, "updates": u, "value": value * u / 40} for u in (20, 40)]
    more = contrasts.architecture(frame(ARCHITECTURE, rows), "small")
    assert at(more, metric="plateau", width=64) == pytest.approx([1.0])
    assert at(more, metric="plateau", width=32) == pytest.approx([0.9])
    assert at(more, metric="plateau_difference") == pytest.approx([-0.1])
    assert at(more, metric="gain", width=16) == [4.0]
    assert at(more, metric="gain", width=32) == [1.0]
    assert at(more, metric="attention_effect") == [1.0]
    assert at(more, metric="dropout_effect") == [-2.0]
    assert set(more["updates"]) == {100, 40}
    assert not more.drop(columns="cell").isna().any().any()
    few = frame(ARCHITECTURE, [r for r in rows if r["net"] == "U-Net"])
    assert set(contrasts.architecture(few, "small")["metric"]) == {
        "gain", "attention_effect", "dropout_effect",
    }  # fmt: skip


def test_slopes_over_samples():
    rows = [
        {
            "data": data,
            "N": n,
            "seed": 1,
            "metric": metric,
            "value": 9 + b * math.log(n),
            "cell": n,
        }
        for data, slope in (("D2", -1.0), ("mnist", -1.2))
        for metric, b in (("S_train", slope), ("S_test", 50 * slope))
        for n in (64, 16, 256)
    ]
    more = contrasts.memorisation(frame(MEMORISATION, rows), "small")
    assert at(more, data="D2", metric="slope") == pytest.approx([-1])
    assert at(more, data="mnist", metric="slope") == pytest.approx([-1.2])
    assert at(more, data="mnist", metric="slope_test") == pytest.approx([-60])
    assert set(more["N"]) == {256}


def test_rises_of_the_total():
    rows = [
        {"process": p, "mixture": "D3", "d": d, "seed": 1, "updates": u, "metric": "S_tot"}
        | {"value": value, "cell": f"{p}{d}"}
        for p, values in (("vp", (1, 3, 9)), ("vpx", (200, 500, 1000)))
        for d, value in zip((0.0, 0.5, 1.0), values, strict=True)
        for u in (10, 20)
    ]
    more = contrasts.dilation(frame(DILATION, rows[::-1]), "small")
    assert at(more, process="vp", d=0.5) == at(more, process="vp", d=1.0) == [3.0]
    assert at(more, process="vpx", d=1.0) == [2.0]
    assert set(more["updates"]) == {20}
    assert len(more) == 4


# ------------------------------------------------------------------------------------- targets
def names(target, seeds: int = 3) -> set[str]:
    return {cell.name for cell in expand(target, "small", seeds)}


def test_no_cell_is_trained_twice():
    epochs, samples = names(EPOCHS), names(SAMPLES)
    assert names(WINDOW) <= epochs | samples
    assert names(WINDOW) & samples
    for target, axis, value in ((DILATION, "d", 0.0), (PARAMETRISATION, "parametrisation", "em")):
        shared = [c for c in expand(target, "small", 3) if c.axes[axis] == value]
        assert len(shared) == 6
        assert {c.name for c in shared} <= epochs


@pytest.mark.parametrize("target", NE, ids=lambda t: t.id)
def test_figures_draw(target):
    """Every arm and metric of tier small with made-up numbers, and the first arm alone."""
    rows = [
        {**cell.axes, "seed": cell.seed, "updates": u, "metric": metric, "cell": cell.name}
        | {"value": 1.0 + i + 0.1 * cell.seed}
        for cell in expand(target, "small", 2)
        for u in (cell.updates if target.index else cell.updates[-1:])
        for i, metric in enumerate(target.metrics)
    ]
    draw = getattr(control_figures, target.figure.split(":")[1])
    for some in (
        frame(target, rows),
        frame(target, [r for r in rows if r["cell"] == rows[0]["cell"]]),
    ):
        fig = draw(Observed(target, "small", (), some, pd.DataFrame(), ()), [])
        assert all(ax.has_data() for ax in fig.axes) or len(some) < len(rows)
        fig.canvas.draw()
        import matplotlib.pyplot as plt

        plt.close(fig)
