"""S_tot and S_NN against quadrature and closed forms; windows; the reverse triangle inequality."""

import functools
import math

from datamodules import GaussianMixture
from lightning_modules.neural_entropy import MLP, PROCESSES
from lightning_modules.neural_entropy.estimators import (
    Window,
    entropy_curves,
    entropy_drop,
    kl_to_gaussian,
    score_integral,
)

import pytest
import torch
from fields import exact, rng

EVERY = pytest.mark.parametrize("process", ["vp", "vpx", "sl"])
NODES = {"G1": 200, "G2": 100, "N1": 12, "N2": 12, "N3": 8}

# section 5.1, T = 1: S_tot over VP, VPx, SL
S_TOT = {
    "G1": (0.2731483, 91.9197579, 91.9215732),
    "G2": (0.5232126, 147.1867005, 147.1900656),
    "N1": (0.31814717, 10.39054750, 10.39056209),
    "N2": (1.20303077, 144.07615339, 144.10817970),
    "N3": (0.49984045, 191.57555653, 191.59224472),
}
TABLE = [
    pytest.param(name, process, value, id=f"{name}-{process}")
    for name, row in S_TOT.items()
    for process, value in zip(("vp", "vpx", "sl"), row, strict=True)
]


def nodes(name):
    return lambda law: law.nodes(NODES[name])


def precision(name: str) -> float:
    return 1e-6 if name.startswith("G") else 5e-9


def random_net(dim: int, seed: int = 0, **options) -> MLP:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MLP(dim, widths=(16, 8), frequencies=8, **options)


# --------------------------------------------------------------------------------- S_tot, two ways
@pytest.mark.parametrize(("name", "process", "value"), TABLE)
def test_entropy_drop_is_the_tables(name, process, value):
    got, _ = entropy_drop(PROCESSES[process], GaussianMixture.named(name), nodes(name))
    assert got == pytest.approx(value, abs=precision(name), rel=1e-10)


@pytest.mark.parametrize(("name", "process", "value"), TABLE)
def test_score_integral_is_the_tables(name, process, value):
    mixture = GaussianMixture.named(name)
    got, _ = score_integral(PROCESSES[process], mixture, nodes(name), Window.whole(48))
    assert got == pytest.approx(value, abs=precision(name), rel=1e-10)
    drop, _ = entropy_drop(PROCESSES[process], mixture, nodes(name))
    assert got == pytest.approx(drop, rel=1e-5)


CUMULATIVE = {  # G1 at s = 0.1, 0.25, 0.5, 0.75
    "vp": (0.056966, 0.189530, 0.266198, 0.272807),
    "vpx": (8.037743, 38.126845, 81.122899, 91.447760),
    "sl": (17.832502, 41.018426, 70.129435, 87.207108),
}
RATES = {  # G1 at s = 0.1, 0.25, 0.5
    "vp": (0.916076, 0.673400, 0.078974),
    "vpx": (145.047534, 226.287551, 95.421105),
    "sl": (168.830567, 140.303327, 92.513760),
}


@EVERY
@pytest.mark.parametrize("k", range(4))
def test_cumulative_entropy_of_g1(process, k):
    flow, g1, hi = PROCESSES[process], GaussianMixture.named("G1"), (0.1, 0.25, 0.5, 0.75)[k]
    drop, _ = entropy_drop(flow, g1, nodes("G1"), hi=hi)
    integral, _ = score_integral(flow, g1, nodes("G1"), Window.whole(32, hi=hi))
    assert drop == pytest.approx(CUMULATIVE[process][k], abs=1e-6)
    assert integral == pytest.approx(CUMULATIVE[process][k], abs=1e-6)


@EVERY
@pytest.mark.parametrize("k", range(3))
def test_entropy_rates_of_g1(process, k):
    s = torch.tensor([(0.1, 0.25, 0.5)[k]], dtype=torch.float64)
    instant = Window(s, torch.ones_like(s))
    rate, _ = score_integral(PROCESSES[process], GaussianMixture.named("G1"), nodes("G1"), instant)
    assert rate == pytest.approx(RATES[process][k], abs=1e-6)


REMAINDERS = [
    ("G1", "vp", 9.990e-6),
    ("G1", "vpx", 1.815e-3),
    ("G2", "vp", 2.315e-5),
    ("G2", "vpx", 3.365e-3),
]


@pytest.mark.parametrize(("name", "process", "value"), REMAINDERS)
def test_what_is_left_at_the_end(name, process, value):
    flow, one = PROCESSES[process], torch.ones((), dtype=torch.float64)
    law = GaussianMixture.named(name).diffused(flow.mu(one), flow.std(one))
    x, mass = law.nodes(NODES[name])
    entropy = -float(mass @ law.log_prob(x))
    left = kl_to_gaussian(entropy, law.second_moment(), law.dim, flow.kappa)
    assert left == pytest.approx(value, rel=4e-4)


def test_sl_exceeds_vpx_by_what_vpx_leaves():
    for name, _, left in REMAINDERS[1::2]:
        mixture = GaussianMixture.named(name)
        sl, vpx = (entropy_drop(PROCESSES[p], mixture, nodes(name))[0] for p in ("sl", "vpx"))
        assert sl - vpx == pytest.approx(left, rel=4e-4)


def test_kl_to_gaussian_of_gaussians():
    for v, std, dim, shift in ((0.25, 1.0, 1, 0.0), (0.49, 0.1, 2, 2.0), (2.0, 3.0, 5, 1.0)):
        entropy = dim / 2 * math.log(2 * math.pi * math.e * v)
        want = 0.5 * (dim * v + shift) / std**2 - dim / 2 - dim / 2 * math.log(v / std**2)
        assert kl_to_gaussian(entropy, dim * v + shift, dim, std) == pytest.approx(want, rel=1e-12)


@EVERY
def test_sampled_estimates_agree_within_their_stated_errors(process):
    stream = rng(1)

    def sample(law):
        x = law.sample(20000, stream)
        return x, torch.full((len(x),), 1 / len(x), dtype=x.dtype)

    flow, mixture = PROCESSES[process], GaussianMixture.named("G2")
    want = S_TOT["G2"][["vp", "vpx", "sl"].index(process)]
    drop, error = entropy_drop(flow, mixture, sample)
    assert 1e-3 < error < 0.02
    assert abs(drop - want) < 4 * error
    integral, error = score_integral(flow, mixture, sample, Window.whole(24))
    assert 1e-3 * want < error < 0.02 * want
    assert abs(integral - want) < 4 * error


# ----------------------------------------------------------------------------------------- windows
def test_papers_window():
    grid = torch.linspace(1e-5, 1, 100, dtype=torch.float64)
    whole, dropped = Window.paper(drop_first=False), Window.paper()
    torch.testing.assert_close(whole.s, grid[:-1], rtol=0, atol=0)
    torch.testing.assert_close(dropped.s, grid[1:-1], rtol=0, atol=0)
    assert float(dropped.s[0]) == pytest.approx(0.0101, abs=2e-5)
    for window in (whole, dropped, Window.paper(n_t=7), Window.paper(n_t=500)):
        lo, hi = float(window.s[0]), float(window.s[-1])
        assert len(window.w) == len(window.s)
        assert float(window.w @ (2 + 3 * window.s)) == pytest.approx(
            2 * (hi - lo) + 1.5 * (hi**2 - lo**2), rel=1e-13
        )
        torch.testing.assert_close(
            window.w @ window.s**2, torch.trapezoid(window.s**2, window.s), rtol=1e-13, atol=0
        )


LO, HI = 1e-5, 1 - 1e-5
INTEGRALS = {
    "one": (torch.ones_like, HI - LO),
    "square": (torch.square, (HI**3 - LO**3) / 3),
    "one over s": (torch.reciprocal, math.log(HI / LO)),
    "one over 1 - s": (lambda s: 1 / (1 - s), math.log((1 - LO) / (1 - HI))),
    "log s": (torch.log, HI * math.log(HI) - HI - LO * math.log(LO) + LO),
    "exp": (torch.exp, math.exp(HI) - math.exp(LO)),
}


@pytest.mark.parametrize("name", INTEGRALS)
def test_exact_window_integrates(name):
    f, value = INTEGRALS[name]
    window = Window.exact()
    assert LO < float(window.s[0]) < float(window.s[-1]) < HI
    assert float(window.w @ f(window.s)) == pytest.approx(value, rel=1e-9)


def test_whole_window_is_gauss_legendre():
    window = Window.whole(8, hi=0.5)
    for k in range(16):  # eight nodes: exact up to degree fifteen
        assert float(window.w @ window.s**k) == pytest.approx(0.5 ** (k + 1) / (k + 1), rel=1e-12)


# conventions.md: S_tot of SL over the authors' grid, without and with its first point
FIRST_POINT = {"D3": (254.58, 259.91, 8), "D6": (552.54, 564.09, 3), "D9": (1000.52, 1021.36, 2)}


@pytest.mark.parametrize("name", FIRST_POINT)
def test_dropping_the_first_point_costs_sl_two_percent(name):
    # exact scores on quadrature nodes; the page's values are a sample's, hence 3e-4
    without, with_first, n = FIRST_POINT[name]
    mixture = GaussianMixture.named(name)

    def integral(window):
        return score_integral(PROCESSES["sl"], mixture, lambda law: law.nodes(n), window)[0]

    cut, full = (integral(Window.paper(drop_first=drop)) for drop in (True, False))
    assert cut == pytest.approx(without, rel=3e-4)
    assert full == pytest.approx(with_first, rel=3e-4)
    assert cut / full == pytest.approx(without / with_first, abs=5e-5)


# ---------------------------------------------------------------------- curves, and inequality (8)
@functools.cache
def curves_of(process: str, name: str, seed: int):
    x = GaussianMixture.named(name).sample(64, rng(seed)).float()
    net = random_net(x.shape[1], seed)
    # an output of the size of e*, else (8) is never near
    size = {"vp": 3, "vpx": 100, "sl": 100}[process]
    return entropy_curves(
        PROCESSES[process],
        lambda y, s: size * seed * net(y, s),
        x,
        Window.exact(24),
        rng(seed),
        GaussianMixture.named(name),
    )


@EVERY
@pytest.mark.parametrize("name", ["D2", "D9"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_reverse_triangle_inequality_for_any_network(process, name, seed):
    curves = curves_of(process, name, seed)
    neural, total, match = (curves.integral(k)[0] for k in ("neural", "total", "match"))
    assert neural > 0
    assert (total**0.5 - neural**0.5) ** 2 <= match * (1 + 1e-9)
    assert match <= (total**0.5 + neural**0.5) ** 2 * (1 + 1e-9)


@EVERY
@pytest.mark.parametrize("c", [0.0, 0.5, 1.0, 1.2, -0.5])
def test_equality_for_a_scaled_exact_field(process, c):
    mixture = GaussianMixture.named("D3")
    x = mixture.sample(200, rng())
    curves = entropy_curves(
        PROCESSES[process], exact(process, "D3", c), x, Window.exact(24), rng(), mixture
    )
    total = curves.integral("total")[0]
    assert curves.integral("neural")[0] == pytest.approx(c**2 * total, rel=1e-9, abs=1e-12)
    assert curves.integral("match")[0] == pytest.approx((1 - c) ** 2 * total, rel=1e-9, abs=1e-12)


def test_a_zero_network_stores_nothing():
    x = GaussianMixture.named("D3").sample(50, rng()).float()
    net = random_net(3, zero_output=True)
    for process in PROCESSES.values():
        curves = entropy_curves(process, net, x, Window.exact(16), rng())
        assert curves.integral("neural") == (0, 0)
        assert curves.total is None
        assert curves.match_each is None


@pytest.mark.parametrize("process", ["vp", "sl"])
def test_monte_carlo_curves_agree_with_quadrature(process):
    g1, flow, window = GaussianMixture.named("G1"), PROCESSES[process], Window.exact(32)
    x = g1.sample(8000, rng())
    curves = entropy_curves(flow, exact(process, "G1"), x, window, rng(), g1)
    want, _ = score_integral(flow, g1, nodes("G1"), window)
    value, error = curves.integral("neural")
    assert error < 0.02 * want
    assert abs(value - want) < 4 * error
    assert curves.neural_each.shape == (8000,)
    for k in (8, 16, 24):
        instant = Window(window.s[k : k + 1], torch.ones(1, dtype=torch.float64))
        rate, _ = score_integral(flow, g1, nodes("G1"), instant)
        assert float(curves.neural[k]) == pytest.approx(rate, rel=0.1)
    # the rates' integral is the mean of the points' integrals
    assert float(window.w @ curves.neural) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("rows", [1, 64, 150, 10**6])
def test_batching_times_changes_nothing(rows):
    # 64 points in 2-D: whole vectors of the generator, so that it draws the same in any batches
    mixture = GaussianMixture.named("D2")
    x, net = mixture.sample(64, rng()).float(), random_net(2)
    one, many = (
        entropy_curves(PROCESSES["vp"], net, x, Window.exact(12), rng(), mixture, rows=r)
        for r in (None, rows)
    )
    for name in ("neural", "neural_each", "total", "match_each"):
        torch.testing.assert_close(getattr(many, name), getattr(one, name), rtol=1e-5, atol=1e-9)
