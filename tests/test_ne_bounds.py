"""The bounds on log-density and KL divergence, against laws that are known exactly."""

import math

from datamodules import GaussianMixture
from lightning_modules.neural_entropy import PROCESSES, estimators
from lightning_modules.neural_entropy.estimators import (
    Window,
    entropy_curves,
    entropy_drop,
    kl_to_gaussian,
    log_prob_bound,
)

import numpy as np
import pytest
import torch
from fields import exact, rng

EVERY = pytest.mark.parametrize("process", ["vp", "vpx", "sl"])
LO, HI = 1e-5, 1 - 1e-5

# section 11, item 7: log p_d of G1
X = torch.tensor([[-2.0], [-1.0], [0.0], [1.0], [2.0]], dtype=torch.float64)
LOG_P = torch.tensor([-1.92764, -1.82934, -1.81722, -1.05247, -1.83372], dtype=torch.float64)

# section 5.1, e_theta = c e* on N1 with VP: c -> bound on the KL divergence, S_NN
SCALED = {
    0.0: (0.318147, 0.0),
    0.5: (0.079537, 0.079537),
    0.9: (0.003181, 0.257699),
    1.0: (0.0, 0.318147),
    1.2: (0.012726, 0.458132),
}


def fix_noise(monkeypatch, z: torch.Tensor) -> None:
    """The same noise ``z`` (n, ...) at every time; times in the middles of their slices."""

    def randn(size, **_):
        return z.repeat(math.prod(size) // z.numel(), *[1] * (z.dim() - 1)).reshape(size)

    monkeypatch.setattr(estimators.torch, "randn", randn)
    monkeypatch.setattr(
        estimators.torch, "rand", lambda size, **_: torch.full(size, 0.5, dtype=torch.float64)
    )


def corners() -> tuple[torch.Tensor, torch.Tensor]:
    """Four points of N1 and their noise: averages of quadratics in (x, z) are exact."""
    sign = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    x, z = torch.cartesian_prod(sign, sign).T
    return 0.5 * x[:, None], z[:, None]


def kl_at_end(process: str) -> float:
    """``KL(p_T || p_0)`` of N1."""
    flow, one = PROCESSES[process], torch.ones((), dtype=torch.float64)
    law = GaussianMixture.named("N1").diffused(flow.mu(one), flow.std(one))
    entropy = 0.5 * math.log(2 * math.pi * math.e * float(law.stds[0]) ** 2)
    return kl_to_gaussian(entropy, law.second_moment(), 1, flow.prior_std())


# ------------------------------------------------------------------------------- log-density bound
@EVERY
def test_bound_with_the_exact_field_is_the_log_density(process, monkeypatch):
    """Tight: what differs is the generator's start, ``E[log p_0(y_T) - log p_T(y_T)]`` given x."""
    g1, flow, one = GaussianMixture.named("G1"), PROCESSES[process], torch.ones(1).double()
    t, w = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(40))
    w = w / w.sum()
    x = X.repeat_interleave(40, 0)
    fix_noise(monkeypatch, t.repeat(5)[:, None])
    bound = log_prob_bound(flow, exact(process, "G1"), x, 1000, rng()).reshape(5, 40) @ w
    end = flow.mu(one) * X[:, None] + flow.std(one) * t[:, None]
    start = torch.distributions.Normal(0, flow.prior_std()).log_prob(end).squeeze(-1)
    differ = (start - g1.diffused(flow.mu(one)[0], flow.std(one)[0]).log_prob(end)) @ w
    torch.testing.assert_close(bound - differ, LOG_P, rtol=0, atol=4e-5)
    if process != "vpx":  # its end is 0.02 from its start
        torch.testing.assert_close(bound, LOG_P, rtol=0, atol=5e-3)


def test_throws_are_unbiased():
    # many short estimates, each with its own stratified times and its own noise
    x = X.repeat(800, 1)
    bound = log_prob_bound(PROCESSES["vp"], exact("vp", "G1"), x, 60, rng()).reshape(800, 5)
    error = bound.std(0) / 800**0.5
    assert error.max() < 0.02
    assert ((bound.mean(0) - LOG_P).abs() < 4.5 * error).all()


@EVERY
@pytest.mark.parametrize("prior", ["exact", "official"])
def test_one_call_by_hand(process, prior):
    """Equation 9 as it is printed, on the draws that the function makes."""
    flow, throws, n, dim = PROCESSES[process], 3, 4, 2
    x = torch.randn(n, dim, generator=rng(1), dtype=torch.float64)

    def field(y, s):
        return torch.stack([y[:, 1] * s, torch.sin(3 * y[:, 0]) - s], 1)

    got = log_prob_bound(flow, field, x, throws, rng(2), prior)
    stream = rng(2)
    u = torch.rand(throws, n, generator=stream, dtype=torch.float64)
    z = torch.randn(throws * n, dim, generator=stream, dtype=torch.float64).reshape(throws, n, dim)
    p0 = flow.prior_std()
    end = flow.mu(torch.ones((), dtype=torch.float64)) ** 2 * x.square().sum(1) + dim * p0**2
    want = -math.log(2 * math.pi * p0**2) - end / (2 * p0**2)
    if prior == "official":
        want = torch.full_like(want, -math.log(2 * math.pi * math.e * p0**2))
    for k in range(throws):
        s = (LO + (HI - LO) * (k + u[k]) / throws)[:, None]
        mu, std, sigma2 = flow.mu(s), flow.std(s), flow.sigma2(s)
        y = mu * x + std * z[k]
        e, b = field(y, s[:, 0]), flow.drift(y, s)
        cost = sigma2 / 2 * (2 * b / sigma2 + e) ** 2
        cost = cost - (b + sigma2 * e) * -(y - mu * x) / std**2
        want = want - (HI - LO) / throws * cost.sum(1)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@EVERY
@pytest.mark.parametrize("prior", ["exact", "official"])
def test_bound_without_a_network_is_the_start(process, prior, monkeypatch):
    """With e = 0 the generator never leaves equilibrium, so the bound is log p_eq(x) itself."""
    flow = PROCESSES[process]
    x = torch.tensor([[0.0], [0.05], [0.3]], dtype=torch.float64).repeat_interleave(2, 0)
    fix_noise(monkeypatch, torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(3)[:, None])
    bound = log_prob_bound(flow, lambda y, s: torch.zeros_like(y), x, 20000, rng(), prior)
    want = -0.5 * math.log(2 * math.pi * flow.kappa**2) - x[:, 0] ** 2 / (2 * flow.kappa**2)
    # what is cut off at s < 1e-5 and s > 1 - 1e-5, and p_0 against p_eq
    bound, want = (v.reshape(3, 2).mean(1) for v in (bound, want))
    torch.testing.assert_close(bound, want, rtol=1e-3, atol=5e-4)


def test_bound_is_a_function_of_its_generator():
    x = torch.randn(6, 3, generator=rng())

    def field(y, s):
        return y * s[:, None]

    a, b, c = (log_prob_bound(PROCESSES["vp"], field, x, 5, rng(k)) for k in (1, 1, 2))
    assert a.shape == (6,)
    assert a.dtype == torch.float64
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("rows", [1, 7, 40, None])
def test_every_throw_is_counted_once_in_any_batches(rows, monkeypatch):
    x = torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None]
    fix_noise(monkeypatch, torch.linspace(-2, 2, 6, dtype=torch.float64)[:, None])
    field = exact("vp", "G1", 0.7)
    seen = []

    def watched(y, s):
        seen.append(s)
        return field(y, s)

    got = log_prob_bound(PROCESSES["vp"], watched, x, 11, rng(), rows=rows)
    whole = log_prob_bound(PROCESSES["vp"], field, x, 11, rng(), rows=10**6)
    torch.testing.assert_close(got, whole, rtol=1e-12, atol=0)
    assert sum(map(len, seen)) == 66
    assert max(map(len, seen)) <= max(rows or 2048, 6)


# ---------------------------------------------------------------------------------------- KL bound
@EVERY
@pytest.mark.parametrize("c", SCALED)
def test_kl_bound_is_mismatch_plus_what_is_left(process, c, monkeypatch):
    """``E_x [log p_d - bound] = L_EM + KL(p_T || p_0)``, and L_EM of c e* is (1 - c)^2 S_tot."""
    mixture, flow = GaussianMixture.named("N1"), PROCESSES[process]
    s_tot, _ = entropy_drop(flow, mixture, lambda law: law.nodes(12))
    want = (1 - c) ** 2 * s_tot + kl_at_end(process)
    x, z = corners()
    fix_noise(monkeypatch, z)
    bound = log_prob_bound(flow, exact(process, "N1", c), x, 4000, rng())
    gap = float((mixture.log_prob(x) - bound).mean())
    assert gap == pytest.approx(want, rel=1e-3, abs=3e-4)
    if process == "vp":
        assert gap == pytest.approx(SCALED[c][0], abs=5e-6 + 1e-3 * SCALED[c][0])


def test_kl_bound_of_a_sample_lies_within_its_error():
    mixture = GaussianMixture.named("N1")
    x = mixture.sample(2000, rng(1))
    bound = log_prob_bound(PROCESSES["vp"], exact("vp", "N1", 0.5), x, 200, rng(2))
    gap = mixture.log_prob(x) - bound
    error = float(gap.std()) / len(x) ** 0.5
    assert error < 0.015
    assert abs(float(gap.mean()) - SCALED[0.5][0]) < 4 * error


@pytest.mark.parametrize("c", SCALED)
def test_entropy_of_a_scaled_network(c, monkeypatch):
    mixture = GaussianMixture.named("N1")
    x, z = corners()
    fix_noise(monkeypatch, z)
    curves = entropy_curves(
        PROCESSES["vp"], exact("vp", "N1", c), x, Window.whole(64), rng(), mixture
    )
    match, neural = SCALED[c]
    assert curves.integral("neural")[0] == pytest.approx(neural, abs=6e-7)
    assert curves.integral("match")[0] == pytest.approx(match, abs=6e-7)
    assert curves.integral("total")[0] == pytest.approx(0.318147, abs=6e-7)


def test_images_are_points_too():
    x = torch.randn(4, 1, 5, 3, generator=rng())
    vp, window = PROCESSES["vp"], Window.paper(9)

    def field(y, s):
        return y * s.reshape(-1, *[1] * (y.dim() - 1))

    flat, image = (entropy_curves(vp, field, v, window, rng()) for v in (x.flatten(1), x))
    torch.testing.assert_close(flat.neural_each, image.neural_each)
    flat, image = (log_prob_bound(vp, field, v, 8, rng()) for v in (x.flatten(1), x))
    torch.testing.assert_close(flat, image)
