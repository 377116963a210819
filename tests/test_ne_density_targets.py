"""ne-density, ne-uncertainty, ne-score-matching: arms, evaluators, derived rows and figures."""

import math
from types import SimpleNamespace

from datamodules import GaussianMixture, MixtureData
from lightning_modules.neural_entropy import PROCESSES, SL, VP
from lightning_modules.neural_entropy.speed_limit import best_kappa

import numpy as np
import pandas as pd
import pytest
import torch
from fields import exact

from reproduce.cells import expand
from reproduce.neural_entropy import density_evaluators, density_figures
from reproduce.neural_entropy.density import TARGETS
from reproduce.neural_entropy.kappas import BUDGET, comparisons
from reproduce.neural_entropy.uncertainty import BEST
from reproduce.papers import printed, targets
from reproduce.tables import Observed, paper_value
from reproduce.target import Identity, Printed

DENSITY, UNCERTAINTY, SCORES = TARGETS


class Stub:
    """A model whose network is a field in closed form."""

    device, seed = torch.device("cpu"), 3

    def __init__(self, process, field):
        self.process, self.field = process, field

    def __call__(self, y, s):
        return self.field(y, s)


def data(mixture, n_eval=400):
    return MixtureData(mixture, n_train=1, n_eval=n_eval)


def model(process, mixture, scale=1.0):
    return Stub(PROCESSES[process], exact(process, mixture, scale))


def nothing(process):
    return Stub(process, lambda y, s: torch.zeros_like(y))


# ------------------------------------------------------------------------------------------- arms
@pytest.mark.parametrize("tier", ["smoke", "small", "gpu", "paper"])
def test_no_cell_is_trained_twice(tier):
    known = targets()
    others = {c.name for t in ("ne-epochs", "ne-profile") for c in expand(known[t], tier)}
    assert {c.name for c in expand(DENSITY, tier, 1)} <= others
    base = [
        c
        for c in expand(UNCERTAINTY, tier, 1)
        if c.axes["network"] == "mlp" and c.axes["kappa"] in (0.1, 1.0)
    ]
    assert len(base) == 2
    assert {c.name for c in base} <= others
    for cell in base:
        assert PROCESSES[cell.config["model"]["init_args"]["process"]].kappa == cell.axes["kappa"]


def process_of(cell):
    args = cell.config["model"]["init_args"]
    kinds = {"vp": VP, "vpx": VP, "sl": SL}
    base = {"vpx": {"kappa": 0.1}}.get(args["process"], {})
    return kinds[args["process"]](**{**base, **args.get("process_args", {})})


def test_arms_are_what_their_axes_say():
    for cell in expand(UNCERTAINTY, "small", 1):
        process, axes = process_of(cell), cell.axes
        assert process.kappa == axes["kappa"]
        assert isinstance(process, SL if axes["process"] == "sl" else VP)
        assert bool(cell.updates[-1]) == (axes["network"] == "mlp")
        if axes["process"] == "vp":
            one = torch.ones((), dtype=torch.float64)
            assert -2 * float(process.log_mu(one)) == pytest.approx(8.05)
            assert (process == VP(kappa=axes["kappa"])) == (axes["schedule"] == "linear")
        if axes["network"] == "mlp":
            assert BUDGET["small"] in cell.updates
    for cell in expand(SCORES, "small", 1):
        process, axes = process_of(cell), cell.axes
        assert getattr(process, "beta_max", None) == axes["beta_max"]
        if axes["mixture"].startswith("E3"):
            assert float(GaussianMixture.named(axes["mixture"]).stds[0]) == process.kappa


@pytest.mark.parametrize("mixture", BEST)
def test_best_kappa_is_that_of_the_mixture(mixture):
    assert BEST[mixture] == round(best_kappa(GaussianMixture.named(mixture)), 4)


def test_every_known_value_meets_an_arm():
    """A reference value whose axes match no arm, or several, would judge nothing, or the wrong."""
    met = {}
    for target in TARGETS:
        axes = [cell.axes for cell in expand(target, "small", 1)]
        for claim in target.claims:
            if isinstance(claim, Identity) and isinstance(claim.equals, Printed):
                key = claim.equals.key
                met[key] = sum(paper_value(target, key, at) is not None for at in axes)
    rows = [row["key"] for row in printed("neural-entropy")]
    assert len(met) == 10
    assert met == {key: rows.count(key) for key in met}


# ------------------------------------------------------------------------------------- evaluators
def test_density_with_the_exact_field():
    got = density_evaluators.density(model("vp", "D2-notebook"), data("D2-notebook"))
    assert abs(got["gap"]) < 4 * got["gap_se"]
    assert got["gap"] == pytest.approx(got["gap_exact"], abs=1e-4)  # the same draws
    assert got["correlation"] > 0.9
    assert got["error_slope"] == pytest.approx(-0.5, abs=0.12)
    assert got["error"][0] == pytest.approx(4 * got["error"][2], rel=0.4)
    x = data("D2-notebook").x_eval[:200].double()
    np.testing.assert_allclose(
        got["truth"], GaussianMixture.named("D2-notebook").log_prob(x), rtol=1e-5
    )
    assert np.corrcoef(got["truth"], got["estimate"])[0, 1] == pytest.approx(got["correlation"])
    assert got["estimate"].nbytes + got["truth"].nbytes < 10_000


def test_density_gap_is_the_divergence():
    """Half of e* leaves a quarter of S_tot unmatched."""
    got = density_evaluators.density(model("vp", "D3", 0.5), data("D3", 1000))
    assert abs(got["gap"] - 1.097669 / 4) < 4 * got["gap_se"]
    assert abs(got["gap_exact"]) < 4 * got["gap_exact_se"]
    assert got["gap_se"] < 0.05


def test_noise_is_the_seeds_own():
    one, other = model("vp", "D2-notebook"), model("vp", "D2-notebook")
    other.seed = 4
    points = data("D2-notebook", 40)
    first, same = (density_evaluators.density(one, points)["gap"] for _ in range(2))
    assert first == same != density_evaluators.density(other, points)["gap"]


@pytest.mark.parametrize("process", [VP(), VP(kappa=2.0), VP(beta_min=16.0, beta_max=0.1), SL()])
def test_speed_of_a_centred_gaussian(process):
    """A centred Gaussian widens along the geodesic: W2 is the path's length."""
    got = density_evaluators.speed(nothing(process), data("N1", 4))
    end = torch.tensor(process.s_max, dtype=torch.float64)
    last = math.hypot(0.5 * float(process.mu(end)), float(process.std(end)))
    assert got["W2"] == got["W2_at_least"] == pytest.approx(abs(last - 0.5), rel=1e-6)
    assert got["slack_length"] == pytest.approx(0.0, abs=1e-5)
    ratio = 0.25 / process.kappa**2
    divergence = (ratio - 1 - math.log(ratio)) / 2
    assert got["KL_eq"] == pytest.approx(divergence, rel=1e-6)
    assert got["S_endless"] == pytest.approx(divergence, rel=1e-6)
    assert got["best_kappa2"] == pytest.approx(0.25)
    # Cauchy-Schwarz with the exact total
    total = got["tightness"] * got["lower_bound"]
    root = math.sqrt(total * got["time"])
    assert got["slack_entropy"] == pytest.approx(root / got["length"] - 1)
    assert got["slack_entropy"] > 0


def test_what_the_clock_leaves_is_counted():
    """N2 is not centred, so VP ends 3e-4 nats short of equilibrium."""
    got = density_evaluators.speed(nothing(VP()), data("N2", 4))
    total = got["tightness"] * got["lower_bound"]
    assert total == pytest.approx(1.20303077, abs=1e-8)
    assert got["S_endless"] == pytest.approx(0.49 - math.log(0.49), rel=1e-6)
    assert got["S_endless"] - total == pytest.approx(3.19e-4, rel=0.01)


def test_speed_in_three_dimensions():
    got = {
        name: density_evaluators.speed(nothing(process), data("D3", 4))
        for name, process in {"own": VP(), "constant": VP(beta_min=8.05, beta_max=8.05)}.items()
    }
    own, other = got["own"], got["constant"]
    assert min(own["slack_length"], own["slack_entropy"]) > 0
    assert other["S_endless"] == pytest.approx(own["S_endless"], rel=1e-9)
    assert other["length"] == pytest.approx(own["length"], rel=1e-9)
    assert abs(own["S_endless"] - own["KL_eq"]) < 4 * own["KL_eq_se"]
    assert own["W2"] == pytest.approx(own["W2_at_least"], rel=0.1)


@pytest.mark.parametrize(
    ("process", "mixture", "table"), [("vp", "G1", 3.8492916), ("vpx", "G1", 1.5748811)]
)
def test_score_matching_of_an_exact_network(process, mixture, table):
    got = density_evaluators.score_matching(model(process, mixture), data(mixture))
    assert got["S_SM_exact"] == pytest.approx(table, abs=1e-6)
    assert abs(got["S_SM_err"]) < 1e-5
    assert got["S_SM_err_se"] == 0
    assert got["excess"] == pytest.approx(table - got["S_tot"], abs=1e-6)
    assert got["stored"] == pytest.approx(1.0, abs=1e-3)
    assert got["S_NN"] == pytest.approx(got["S_tot"], rel=0.2)  # of 400 points
    assert abs(got["S_SM"] - table) < 5 * got["S_SM_se"]
    assert (got["excess"] < 0) == (process == "vpx")


@pytest.mark.parametrize(("beta_max", "clock"), [(8.0, 2.025), (16.0, 4.025), (32.0, 8.025)])
def test_noise_counts_the_time(beta_max, clock):
    """A network of next to nothing: nothing is stored, and the score counts D U."""
    small = Stub(VP(beta_max=beta_max), lambda y, s: torch.full_like(y, 1e-3))
    got = density_evaluators.score_matching(small, data("E3", 2000))
    assert abs(got["S_tot"]) < 1e-9
    assert got["DU"] == pytest.approx(3 * clock)
    assert got["S_SM_exact_over_DU"] == pytest.approx(1.0, abs=1e-9)
    assert got["S_SM_drawn_over_DU"] == pytest.approx(1.0, abs=0.01)
    assert got["S_SM_over_DU"] == pytest.approx(1.0, abs=0.03)
    assert got["S_NN"] == pytest.approx(3e-6 * clock, rel=1e-3)
    assert "stored" not in got


def test_a_zero_network_has_no_numbers():
    got = density_evaluators.score_matching(nothing(PROCESSES["vpx"]), data("E3-x"))
    assert got["S_SM_exact_over_DU"] == pytest.approx(1.0)
    assert not {"S_NN", "S_SM", "stored"} & set(got)


# ----------------------------------------------------------------------------------- derived rows
def _row(metric, value, updates=0, seed=1, **axes):
    at = {"mixture": "D3", "process": "vp", "kappa": 1.0, "schedule": "linear", "network": "none"}
    at |= axes
    cell = "-".join(map(str, [*at.values(), seed]))
    return {**at, "seed": seed, "updates": updates, "metric": metric, "value": value, "cell": cell}


def test_comparisons_by_hand():
    rows = [
        _row("S_endless", 2.0),
        _row("S_endless", 2.2, schedule="constant"),
        _row("S_endless", 1.9, process="sl", schedule="straight"),
        _row("S_endless", 4.0, kappa=2.0),
        _row("S_endless", 8.0, process="sl", schedule="straight", kappa=0.2),  # without its own
        _row("KL_eq", 1.5),
        _row("best_kappa2", 1.78),
        _row("KL_eq", 0.5, kappa=1.3342),
        _row("best_kappa2", 1.78, kappa=1.3342),
        _row("KL_bound", 0.3, 1000, network="mlp"),
        _row("KL_bound", 0.2, 2000, network="mlp"),
        _row("KL_bound", 0.4, 2000, network="mlp", kappa=2.0, seed=7),
        _row("KL_bound", 9.0, 2000),  # nothing is trained there
    ]
    columns = [*rows[0]]
    got = comparisons(pd.DataFrame(rows)[columns], "small")
    assert list(got.columns) == columns
    by = {m: g for m, g in got.groupby("metric")}
    np.testing.assert_allclose(sorted(by["retimed"]["value"]), [-0.05, 0.0, 0.0, 0.1], atol=1e-12)
    np.testing.assert_allclose(sorted(by["KL_eq_above_best"]["value"]), [0.0, 1.0])
    bounds = by["KL_bound_at_budget"][["kappa", "seed", "updates", "value"]]
    assert bounds.to_numpy().tolist() == [[1.0, 1, 2000, 0.2], [2.0, 7, 2000, 0.4]]


def test_comparisons_of_what_is_there():
    rows = pd.DataFrame([_row("S_NN", 1.0, 250, network="mlp")])
    assert comparisons(rows, "small").empty
    rows = pd.DataFrame([_row("KL_bound", 1.0, 250, network="mlp")])
    assert comparisons(rows, "small").empty


# ---------------------------------------------------------------------------------------- figures
def observed(target, rows):
    cells = pd.DataFrame({"cell": [], "status": []})
    axes = tuple(k for k in rows[0] if k not in ("seed", "updates", "metric", "value", "cell"))
    return Observed(target, "small", axes, pd.DataFrame(rows), cells, ())


def drawn(figure):
    import matplotlib.pyplot as plt

    figure.canvas.draw()
    lines = [len(ax.get_lines()) for ax in figure.axes]
    plt.close(figure)
    return lines


def test_density_figure():
    key = DENSITY.evaluators[0].key
    records = [
        {
            "seed": seed,
            "config": {"data": {"init_args": {"mixture": mixture}}},
            "curves": {key: {"throws": [[16, 64, 256]], "error": [[1.0, 0.5, 0.2 + 0.01 * seed]]}},
            "arrays": {
                f"density.{k}": np.linspace(-5, -1, 20)
                for k in ("truth", "estimate", "estimate_exact")
            }
            if mixture == "D3"
            else {},
        }
        for mixture in ("D2-notebook", "D3")
        for seed in (1, 7)
    ]
    seen = SimpleNamespace(target=DENSITY)
    assert drawn(density_figures.density(seen, records)) == [0, 3, 5]


def test_uncertainty_figure():
    rows = [
        _row(metric, value, kappa=kappa, process=process, schedule=schedule, mixture=mixture)
        for mixture in ("G1", "D3")
        for process, schedule in (("vp", "linear"), ("sl", "straight"))
        for kappa in (0.1, 1.0)
        for metric, value in (("slack_length", 0.1), ("slack_entropy", 0.5), ("KL_eq", 2.0))
    ]
    still = observed(UNCERTAINTY, rows)
    assert drawn(density_figures.uncertainty(still, [])) == [9, 1]
    rows += [
        _row("KL_bound_at_budget", kappa, 2000, seed, kappa=kappa, network="mlp")
        for kappa in (0.1, 1.0)
        for seed in (1, 7)
    ]
    assert drawn(density_figures.uncertainty(observed(UNCERTAINTY, rows), [])) == [9, 2]


def test_score_figure():
    def row(metric, value, mixture="E3", process="vp", beta_max=16, network="none", seed=1):
        return {
            "mixture": mixture,
            "process": process,
            "beta_max": beta_max,
            "network": network,
            "seed": seed,
            "metric": metric,
            "value": value,
            "cell": "",
        }

    rows = [row("S_SM_exact", 3.0 * b, beta_max=b) for b in (8, 16, 32)]
    rows += [row("S_tot", 91.9, "G1", "vpx"), row("S_SM_exact", 1.57, "G1", "vpx")]
    assert drawn(density_figures.score_matching(observed(SCORES, rows), [])) == [1, 2]
    rows += [
        row(metric, 1.0 + seed, mixture, network=network, beta_max=beta_max, seed=seed)
        for metric, network, mixture in (
            ("S_SM", "sm", "E3"),
            ("S_NN", "sm", "E3"),
            ("S_NN", "em", "E3"),
            ("S_NN", "sm", "D3"),
        )
        for beta_max in (16, 32)
        for seed in (1, 7)
    ]
    assert drawn(density_figures.score_matching(observed(SCORES, rows), [])) == [4, 3]
