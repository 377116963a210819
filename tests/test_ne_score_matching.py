"""S_SM: the table by two ways, what it says of noise, and the repair."""

import math

from datamodules import GaussianMixture
from lightning_modules.neural_entropy import PROCESSES
from lightning_modules.neural_entropy.estimators import Window, entropy_curves, entropy_drop
from lightning_modules.neural_entropy.score_matching import (
    departure,
    entropy_matching,
    score_matching_entropy,
    score_matching_excess,
)

import pytest
import torch
from fields import exact, rng

EVERY = pytest.mark.parametrize("process", ["vp", "vpx", "sl"])
NAMES = ["G1", "G2"]

# section 5.1, T = 1
S_SM = {
    ("G1", "vp"): 3.8492916,
    ("G1", "vpx"): 1.5748811,
    ("G2", "vp"): 8.0453811,
    ("G2", "vpx"): 3.4851402,
}
ROW = pytest.mark.parametrize(("name", "process"), S_SM)


def nodes(name):
    return grid if name == "G1" else lambda law: law.nodes(60)


def grid(law: GaussianMixture) -> tuple[torch.Tensor, torch.Tensor]:
    """Trapezoidal rule in one dimension: exact for what decays so fast, and cheap."""
    reach = 10 * law.stds
    lo, hi = (law.means[:, 0] - reach).min(), (law.means[:, 0] + reach).max()
    x = torch.linspace(float(lo), float(hi), 2000, dtype=torch.float64)[:, None]
    return x, law.log_prob(x).exp() * (x[1] - x[0])


def by_quadrature(process, mixture, points, window) -> float:
    """``int sigma^2/2 E |score|^2 ds`` from its definition."""
    value = 0.0
    for s, w in zip(window.s, window.w, strict=True):
        law = mixture.diffused(process.mu(s), process.std(s))
        y, mass = points(law)
        value += float(w * process.sigma2(s) / 2 * (mass @ law.score(y).square().sum(-1)))
    return value


def entropy(law, points) -> float:
    x, mass = points(law)
    return -float(mass @ law.log_prob(x))


def equilibrium(process, dim: int) -> GaussianMixture:
    one = torch.ones(1, dtype=torch.float64)
    return GaussianMixture(one, torch.zeros(1, dim, dtype=torch.float64), process.kappa * one)


@ROW
def test_closed_form_is_the_tables(name, process):
    value, _ = score_matching_entropy(PROCESSES[process], GaussianMixture.named(name), nodes(name))
    assert value == pytest.approx(S_SM[name, process], abs=1e-6)


@ROW
def test_quadrature_with_the_exact_score_is_the_tables(name, process):
    mixture = GaussianMixture.named(name)
    value = by_quadrature(PROCESSES[process], mixture, nodes(name), Window.whole(48))
    assert value == pytest.approx(S_SM[name, process], abs=1e-6)


@EVERY
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("hi", [0.3, 0.9])
def test_it_is_the_rise_of_entropy_and_the_time(process, name, hi):
    flow, mixture = PROCESSES[process], GaussianMixture.named(name)
    end = torch.tensor(hi, dtype=torch.float64)
    late = mixture.diffused(flow.mu(end), flow.std(end))
    rise = entropy(late, nodes(name)) - entropy(mixture, nodes(name))
    value, _ = score_matching_entropy(flow, mixture, nodes(name), hi)
    assert value == pytest.approx(rise - mixture.dim * float(flow.log_mu(end)), abs=1e-9)
    assert value == pytest.approx(
        by_quadrature(flow, mixture, nodes(name), Window.whole(48, hi)), abs=1e-6
    )


def test_it_can_be_less_than_what_is_stored():
    g1, vpx = GaussianMixture.named("G1"), PROCESSES["vpx"]
    value, error = score_matching_entropy(vpx, g1, nodes("G1"))
    total, same = entropy_drop(vpx, g1, nodes("G1"))
    assert value < 2 < 90 < total
    assert error == same
    assert total + score_matching_excess(vpx, g1.second_moment(), 1) == pytest.approx(value)


# ----------------------------------------------------------------------------- data that are noise
@pytest.mark.parametrize(
    ("process", "hi", "clock"),
    [("vp", 1.0, 4.025), ("vpx", 1.0, 4.025), ("sl", 1 - 1e-5, 11.512925)],
)
@pytest.mark.parametrize("dim", [1, 3, 784])
def test_noise_stores_nothing_but_counts_d_u(process, hi, clock, dim):
    flow = PROCESSES[process]
    noise = equilibrium(flow, dim)
    excess = score_matching_excess(flow, noise.second_moment(), dim, hi)
    assert excess == pytest.approx(dim * clock, rel=1e-7)
    if dim < 4:
        total, _ = entropy_drop(flow, noise, lambda law: law.nodes(8), hi)
        assert abs(total) < 1e-12
        value, _ = score_matching_entropy(flow, noise, lambda law: law.nodes(8), hi)
        assert value == pytest.approx(dim * clock, rel=1e-7)


@pytest.mark.parametrize(
    ("process", "hi", "clock"), [("vp", 1 - 1e-5, 4.025), ("sl", 1 - 1e-5, 11.512925)]
)
def test_curves_of_the_exact_score_of_noise(process, hi, clock):
    flow = PROCESSES[process]
    x = equilibrium(flow, 3).sample(4000, rng())
    score = departure(flow, lambda y, s: torch.zeros_like(y))
    value, error = entropy_curves(flow, score, x, Window.exact(48, hi=hi), rng(1)).integral(
        "neural"
    )
    assert error < 0.01 * value
    assert value == pytest.approx(3 * clock, rel=0.01)
    stored = entropy_curves(flow, entropy_matching(flow, score), x, Window.exact(8), rng(1))
    assert stored.integral("neural")[0] < 1e-20


def test_it_grows_with_the_time_and_diverges_for_sl():
    for process, clock in (("vp", lambda s: 0.05 * s + 3.975 * s**2), ("sl", None)):
        flow = PROCESSES[process]
        for hi in (0.5, 0.99, 1 - 1e-9):
            u = clock(hi) if clock else -math.log1p(-hi)
            excess = score_matching_excess(flow, 5 * flow.kappa**2, 5, hi)
            assert excess == pytest.approx(5 * u, rel=1e-9)


# ------------------------------------------------------------------------------- between the two
@EVERY
def test_departure_of_the_exact_field_is_the_score(process):
    flow, mixture = PROCESSES[process], GaussianMixture.named("D3")
    y = mixture.sample(20, rng())
    s = torch.linspace(0.1, 0.9, 20, dtype=torch.float64)
    score = departure(flow, exact(process, "D3"))
    want = torch.stack(
        [mixture.diffused(flow.mu(s[i]), flow.std(s[i])).score(y[i]) for i in range(20)]
    )
    torch.testing.assert_close(score(y, s), want, rtol=1e-9, atol=1e-9)


@EVERY
def test_the_repair_stores_s_tot(process):
    """e = s_theta - score_eq gives S_tot with the exact score, on the very same draws."""
    flow, mixture = PROCESSES[process], GaussianMixture.named("G2")
    score = departure(flow, exact(process, "G2"))
    x = mixture.sample(200, rng())
    curves = entropy_curves(
        flow, entropy_matching(flow, score), x, Window.exact(24), rng(), mixture
    )
    assert curves.integral("match")[0] < 1e-15 * curves.integral("total")[0]


def test_labels_are_passed_on():
    vp, y, s = PROCESSES["vp"], torch.ones(4, 2), torch.ones(1)
    labels = torch.arange(4)

    def field(y, s, c):
        return y * c[:, None]

    torch.testing.assert_close(departure(vp, field)(y, s, labels), field(y, s, labels) - y)
    torch.testing.assert_close(entropy_matching(vp, field)(y, s, labels), field(y, s, labels) + y)
