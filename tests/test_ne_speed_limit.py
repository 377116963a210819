"""The speed limit: Wasserstein distances, path lengths, and the chain that binds S_tot."""

import functools
import math

from datamodules import GaussianMixture
from lightning_modules.neural_entropy import PROCESSES, VP
from lightning_modules.neural_entropy.estimators import (
    Window,
    entropy_drop,
    kl_to_gaussian,
    score_integral,
)
from lightning_modules.neural_entropy.speed_limit import (
    SpeedLimit,
    best_kappa,
    diffusion_time,
    path_length,
    wasserstein2,
    wasserstein2_at_least,
    wasserstein2_mixtures,
)

import numpy as np
import pytest
import torch
from fields import rng

EVERY = pytest.mark.parametrize("process", ["vp", "vpx", "sl"])
NODES = {"G2": 60, "D3": 8}
HI = {"vp": 1.0, "vpx": 1.0, "sl": 1 - 1e-5}

# section 5.4: W2, path length, int sigma^2/2, S_tot, lower bound, S_tot / bound, straightness
TABLE = {
    "vp": (0.492670, 0.544495, 4.025000, 0.273148, 0.060304, 4.53, 0.9048),
    "vpx": (1.278021, 1.279365, 0.040250, 91.919758, 40.579802, 2.27, 0.9990),
    "sl": (1.281643, 1.284855, 0.115129, 91.921573, 14.267522, 6.44, 0.9975),
}


def nodes(name):
    return grid if name == "G1" else lambda law: law.nodes(NODES[name])


def grid(law: GaussianMixture) -> tuple[torch.Tensor, torch.Tensor]:
    """Trapezoidal rule in one dimension: exact for what decays so fast, and cheap."""
    reach = 10 * law.stds
    lo, hi = (law.means[:, 0] - reach).min(), (law.means[:, 0] + reach).max()
    x = torch.linspace(float(lo), float(hi), 2000, dtype=torch.float64)[:, None]
    return x, law.log_prob(x).exp() * (x[1] - x[0])


def at_end(process: str, mixture: GaussianMixture) -> GaussianMixture:
    flow, hi = PROCESSES[process], torch.tensor(HI[process], dtype=torch.float64)
    return mixture.diffused(flow.mu(hi), flow.std(hi))


def normal(mean: float, std: float) -> GaussianMixture:
    one = torch.ones(1, dtype=torch.float64)
    return GaussianMixture(one, mean * one[:, None], std * one)


@functools.cache
def limit(process: str, name: str) -> SpeedLimit:
    flow, mixture, hi = PROCESSES[process], GaussianMixture.named(name), HI[process]
    last = at_end(process, mixture)
    distance = wasserstein2_mixtures if name == "G1" else wasserstein2_at_least
    w2 = distance(mixture, last)
    length = path_length(flow, mixture, nodes(name), Window.whole(48, hi))
    total, _ = entropy_drop(flow, mixture, nodes(name), hi)
    return SpeedLimit(w2, length, diffusion_time(flow, hi=hi), total)


# --------------------------------------------------------------------------------------- the table
@EVERY
def test_table(process):
    got, want = limit(process, "G1"), TABLE[process]
    assert got.w2 == pytest.approx(want[0], abs=1e-4)
    assert got.length == pytest.approx(want[1], abs=1e-6)
    assert got.time == pytest.approx(want[2], abs=1e-6)
    assert got.total == pytest.approx(want[3], abs=1e-6)
    assert got.lower_bound == pytest.approx(want[4], rel=2e-4)
    assert got.total / got.lower_bound == pytest.approx(want[5], abs=0.005)
    assert got.straightness == pytest.approx(want[6], abs=1e-4)


@EVERY
@pytest.mark.parametrize("name", ["G1", "G2", "D3"])
def test_chain(process, name):
    got = limit(process, name)
    assert got.holds()
    assert got.total >= got.lower_bound
    assert 0.6 < got.straightness < 1


def test_a_broken_chain_is_seen():
    assert SpeedLimit(1.0, 2.0, 1.0, 9.0).holds()
    assert not SpeedLimit(2.1, 2.0, 1.0, 9.0).holds()
    assert not SpeedLimit(1.0, 3.1, 1.0, 9.0).holds()
    assert SpeedLimit(2.1, 2.0, 1.0, 9.0).holds(0.06)


# ---------------------------------------------------------------------------- Wasserstein distance
@pytest.mark.parametrize(("a", "b"), [((0, 1), (3, 1)), ((-1, 0.5), (2, 4)), ((0, 1), (0, 1e-3))])
def test_between_normals(a, b):
    want = math.hypot(a[0] - b[0], a[1] - b[1])
    assert wasserstein2_mixtures(normal(*a), normal(*b)) == pytest.approx(want, rel=1e-9)
    assert wasserstein2_mixtures(normal(*b), normal(*a)) == pytest.approx(want, rel=1e-6)


@EVERY
def test_between_mixtures_is_symmetric(process):
    g1 = GaussianMixture.named("G1")
    last = at_end(process, g1)
    there, back = wasserstein2_mixtures(g1, last), wasserstein2_mixtures(last, g1)
    assert there == pytest.approx(back, rel=1e-9)
    assert wasserstein2_mixtures(g1, g1) < 1e-7


def test_samples_in_one_dimension_find_the_mixtures_distance():
    g1 = GaussianMixture.named("G1")
    last = at_end("vp", g1)
    x, y = g1.sample(40000, rng()), last.sample(40000, rng(1))
    assert wasserstein2(x, y) == pytest.approx(wasserstein2_mixtures(g1, last), rel=0.03)


def test_assignment_is_optimal():
    x = torch.randn(5, 2, generator=rng()).double()
    y = torch.randn(5, 2, generator=rng(1)).double()
    every = torch.cartesian_prod(*[torch.arange(5)] * 5)
    every = every[every.sort(1).values.eq(torch.arange(5)).all(1)]  # the 120 permutations
    best = (x - y[every]).square().sum(-1).mean(-1).min().sqrt()
    assert wasserstein2(x, y) == pytest.approx(float(best), rel=1e-12)
    # a shift costs its length and nothing else, however near the points
    shift = torch.tensor([3.0, 4.0])
    assert wasserstein2(x, x[[3, 1, 4, 0, 2]] + 1e-9 * shift) == pytest.approx(5e-9, rel=1e-5)


def test_assignment_takes_the_first_rows_and_is_biased_up():
    d3 = GaussianMixture.named("D3")
    x, y = d3.sample(300, rng()), d3.sample(300, rng(1))
    few, many = wasserstein2(x, y, limit=50), wasserstein2(x, y)
    assert few == wasserstein2(x[:50], y[:50])
    assert few > many > 0.1  # of one law, whose distance is zero


def test_lower_bound_is_exact_between_normals_and_scalings():
    for a, b in (((0, 1), (3, 1)), ((-1, 0.5), (2, 4))):
        want = math.hypot(a[0] - b[0], a[1] - b[1])
        assert wasserstein2_at_least(normal(*a), normal(*b)) == pytest.approx(want, rel=1e-9)
    d9 = GaussianMixture.named("D9")
    shrunk = GaussianMixture(d9.weights, 0.3 * d9.means, 0.3 * d9.stds)
    want = 0.7 * math.sqrt(d9.second_moment())
    assert wasserstein2_at_least(d9, shrunk) == pytest.approx(want, rel=1e-9)
    assert wasserstein2_at_least(d9, d9) < 1e-6


@EVERY
def test_distances_are_ordered(process):
    """Bound, exact and sampled value; in one dimension a sample's is nearly unbiased."""
    g1, d3 = GaussianMixture.named("G1"), GaussianMixture.named("D3")
    last = at_end(process, g1)
    assert wasserstein2_at_least(g1, last) < wasserstein2_mixtures(g1, last)
    last = at_end(process, d3)
    sampled = wasserstein2(d3.sample(500, rng()), last.sample(500, rng(1)))
    assert 0.97 < sampled / wasserstein2_at_least(d3, last) < 1.1


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        wasserstein2(torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="one shape"):
        wasserstein2(torch.zeros(3), torch.zeros(3))
    g1, g2 = GaussianMixture.named("G1"), GaussianMixture.named("G2")
    with pytest.raises(ValueError, match="one dimension"):
        wasserstein2_mixtures(g1, g2)


# -------------------------------------------------------------------------------- clocks and kappa
def test_diffusion_time_between_two_times():
    for flow in PROCESSES.values():
        window = Window.whole(60, hi=0.7)
        half = float(window.w @ flow.sigma2(window.s)) / 2
        assert diffusion_time(flow, hi=0.7) == pytest.approx(half, rel=1e-9)
        parts = diffusion_time(flow, 0.0, 0.3) + diffusion_time(flow, 0.3, 0.7)
        assert parts == pytest.approx(half, rel=1e-9)


@pytest.mark.parametrize("kappa", [0.1, 1.0])
def test_retiming_changes_nothing(kappa):
    """The same int beta = 8.05 in three shapes."""
    g1 = GaussianMixture.named("G1")
    found = []
    for shape in ((0.1, 16.0), (8.05, 8.05), (16.0, 0.1)):
        flow = VP(kappa=kappa, beta_min=shape[0], beta_max=shape[1])
        assert diffusion_time(flow) == pytest.approx(4.025 * kappa**2, rel=1e-12)
        total, _ = score_integral(flow, g1, nodes("G1"), Window.whole(64))
        found.append((total, path_length(flow, g1, nodes("G1"), Window.whole(64))))
    for total, length in found[1:]:
        assert total == pytest.approx(found[0][0], rel=1e-6)
        assert length == pytest.approx(found[0][1], rel=1e-6)


# T11: kappa^2, and the least KL(p_d || N(0, kappa^2 I))
BEST = {"D3": (1.789, 0.785), "D6": (1.936, 2.089), "D9": (2.325, 4.414)}


@pytest.mark.parametrize("name", BEST)
def test_best_kappa(name):
    mixture = GaussianMixture.named(name)
    kappa = best_kappa(mixture)
    assert kappa**2 == pytest.approx(BEST[name][0], abs=1e-3)
    x = mixture.sample(200000, rng())
    gauge = mixture.second_moment() - x.square().sum(1).mean()  # control variate
    entropy = -float(mixture.log_prob(x).mean() - gauge / (2 * kappa**2))

    def kl(k):
        return kl_to_gaussian(entropy, mixture.second_moment(), mixture.dim, k)

    assert kl(kappa) == pytest.approx(BEST[name][1], abs=0.006)
    grid = kappa * np.exp(np.linspace(-0.1, 0.1, 201))
    assert grid[np.argmin([kl(k) for k in grid])] == pytest.approx(kappa, rel=1e-6)
