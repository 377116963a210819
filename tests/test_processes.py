"""VP, VPx and SL: their differential equations, their constants, their precision."""

import math
from itertools import pairwise

from lightning_modules.neural_entropy import PROCESSES, SL, VP

import pytest
import torch

EVERY = pytest.mark.parametrize("name", ["vp", "vpx", "sl"])
KAPPA = {"vp": 1.0, "vpx": 0.1, "sl": 0.1}


def times(n: int = 400, hi: float = 0.999) -> torch.Tensor:
    return torch.linspace(1e-5, hi, n, dtype=torch.float64)


def derivative(f, s: torch.Tensor) -> torch.Tensor:
    s = s.clone().requires_grad_()
    (d,) = torch.autograd.grad(f(s).sum(), s)
    return d


def close(a, b, rtol=1e-10, atol=0.0):
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


# -------------------------------------------------------------------------- differential equations
@EVERY
def test_mean_decays_at_rate_a(name):
    process, s = PROCESSES[name], times()
    close(derivative(process.mu, s), -process.a(s) * process.mu(s))
    close(derivative(process.log_mu, s), -process.a(s))


@EVERY
def test_variance_grows_by_sigma2_and_decays_at_twice_the_rate(name):
    process, s = PROCESSES[name], times()
    slope = derivative(lambda t: process.std(t).square(), s)
    close(slope, -2 * process.a(s) * process.std(s).square() + process.sigma2(s))


@EVERY
def test_kernel_starts_at_the_point(name):
    process, zero = PROCESSES[name], torch.zeros(1, dtype=torch.float64)
    assert process.mu(zero) == 1
    assert process.std(zero) == 0


@EVERY
def test_sigma2_is_twice_a_kappa_squared(name):
    process, s = PROCESSES[name], times()
    close(process.sigma2(s), 2 * process.a(s) * KAPPA[name] ** 2)
    assert process.kappa == KAPPA[name]


@EVERY
def test_equilibrium_score_is_twice_drift_over_sigma2(name):
    process = PROCESSES[name]
    rng = torch.Generator().manual_seed(1)
    s = torch.rand(64, 1, generator=rng, dtype=torch.float64) * 0.999
    y = torch.randn(64, 7, generator=rng, dtype=torch.float64)
    close(process.score_eq(y), 2 * process.drift(y, s) / process.sigma2(s))
    close(process.score_eq(y), -y / KAPPA[name] ** 2)


@EVERY
def test_kernel_composes(name):
    # from 0 to t equals from 0 to s and on to t: mu multiplies, variances add after decay
    process = PROCESSES[name]
    for s, t in pairwise(times(6, 0.9)):
        ratio = process.mu(t) / process.mu(s)
        variance = ratio**2 * process.std(s) ** 2 + process.kappa**2 * (1 - ratio**2)
        close(variance, process.std(t) ** 2)


# --------------------------------------------------------------------------- explicit coefficients
@pytest.mark.parametrize("name", ["vp", "vpx"])
def test_vp_rate_is_half_of_a_linear_beta(name):
    s = times()
    beta = 0.1 + (16 - 0.1) * s
    y = torch.ones_like(s)
    close(PROCESSES[name].drift(y, s), -beta / 2)
    close(PROCESSES[name].sigma2(s), KAPPA[name] ** 2 * beta)
    close(PROCESSES[name].mu(s), torch.exp(-0.1 * s / 2 - 15.9 * s**2 / 4))


def test_sl_is_a_straight_line():
    process, s = PROCESSES["sl"], times()
    close(process.mu(s), 1 - s)
    close(process.std(s), 0.1 * (1 - (1 - s) ** 2).sqrt(), rtol=1e-9)
    close(process.drift(torch.full_like(s, 3.0), s), -3 / (1 - s))
    close(process.sigma2(s), 0.01 * 2 / (1 - s))


@pytest.mark.parametrize(("name", "std"), [("vp", 0.999840436), ("vpx", 0.0999840436)])
def test_vp_ends_at_the_papers_prior(name, std):
    process, one = PROCESSES[name], torch.ones((), dtype=torch.float64)
    assert float(process.mu(one)) == pytest.approx(0.017863424, abs=5e-10)
    assert float(process.mu(one)) ** 2 == pytest.approx(3.191019e-4, abs=5e-11)
    assert process.prior_std() == pytest.approx(std, rel=5e-10)
    assert -float(process.log_mu(one)) == pytest.approx(4.025, abs=1e-12)


def test_sl_ends_at_equilibrium():
    process = PROCESSES["sl"]
    assert process.prior_std() == pytest.approx(0.1, rel=1e-15)
    last = torch.tensor(1 - 1e-5, dtype=torch.float64)
    assert -float(process.log_mu(last)) == pytest.approx(11.512925, abs=5e-7)


@EVERY
def test_training_times(name):
    process = PROCESSES[name]
    assert process.s_min == 1e-5
    assert process.s_max == (1 - 1e-5 if name == "sl" else 1)
    for s in (process.s_min, process.s_max):
        at = torch.tensor(s, dtype=torch.float64)
        assert all(math.isfinite(v) for v in (process.mu(at), process.std(at), process.sigma2(at)))


# ---------------------------------------------------------------------------- clocks and precision
def test_sl_and_vpx_are_one_flow_on_two_clocks():
    vpx, sl = PROCESSES["vpx"], PROCESSES["sl"]
    s = times()
    same = 1 - vpx.mu(s)  # SL's time with the same mean
    close(sl.mu(same), vpx.mu(s))
    close(sl.std(same), vpx.std(s), rtol=1e-8)


def test_vpx_is_vp_scaled():
    s = times()
    close(PROCESSES["vpx"].std(s), 0.1 * PROCESSES["vp"].std(s))
    close(PROCESSES["vpx"].mu(s), PROCESSES["vp"].mu(s), rtol=0)


@EVERY
@pytest.mark.parametrize("quantity", ["mu", "std", "sigma2"])
def test_float32_keeps_its_digits(name, quantity):
    # the worst place is s = 1e-5, where 1 - mu^2 in float32 would keep one digit
    process = PROCESSES[name]
    s = torch.cat([torch.tensor([1e-5, 2e-5, 1e-4]), torch.linspace(1e-3, 0.999, 300)])
    single = getattr(process, quantity)(s)
    assert single.dtype == torch.float32
    close(single.double(), getattr(process, quantity)(s.double()), rtol=2e-6)


@EVERY
def test_results_have_the_shape_of_the_times(name):
    process = PROCESSES[name]
    for shape in ((), (1,), (4, 1), (2, 3, 5)):
        s = torch.full(shape, 0.25)
        for quantity in (process.mu, process.std, process.sigma2, process.a):
            assert quantity(s).shape == shape


def test_a_processs_parameters_are_its_own():
    flat = VP(kappa=2.0, beta_min=3.0, beta_max=3.0)
    s = times()
    close(flat.mu(s), torch.exp(-1.5 * s))
    close(flat.sigma2(s), torch.full_like(s, 12.0))
    assert SL(kappa=0.5).prior_std() == 0.5
