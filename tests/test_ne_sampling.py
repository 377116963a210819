"""Sampling: flow maps that are known exactly, orders of convergence, and laws that come out."""

import math
from itertools import pairwise

from datamodules import GaussianMixture
from lightning_modules.neural_entropy import PROCESSES, sampling
from lightning_modules.neural_entropy.sampling import probability_flow, reverse_sde, start

import numpy as np
import pytest
import torch
from fields import exact, rng

EVERY = pytest.mark.parametrize("process", ["vp", "vpx", "sl"])
UNTIL = 1e-3

# section 5.1 and 5.2: H(p_d), the last from 1e6 samples
ENTROPY = {"G1": 1.59478026, "G2": 2.84264127, "D3": 4.3418}


def law_at(name: str, process: str, s: float) -> GaussianMixture:
    """The mixture after diffusion up to s."""
    flow, s = PROCESSES[process], torch.tensor(s, dtype=torch.float64)
    return GaussianMixture.named(name).diffused(flow.mu(s), flow.std(s))


def first(process: str) -> float:
    return min(1.0, PROCESSES[process].s_max)


def cdf(law: GaussianMixture, x: torch.Tensor) -> torch.Tensor:
    """Of a law in one dimension."""
    return torch.special.ndtr((x - law.means[:, 0]) / law.stds) @ law.weights


def quantile_error(process: str, **options) -> float:
    """How far G1's points are from where the flow, which keeps the order, must carry them."""
    before, after = law_at("G1", process, first(process)), law_at("G1", process, UNTIL)
    x0 = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None] * float(before.stds.mean())
    got = probability_flow(PROCESSES[process], exact(process, "G1"), x0, until=UNTIL, **options)
    return float((cdf(after, got.x) - cdf(before, x0)).abs().max())


def slope(errors: list[float]) -> float:
    """Order of convergence, of errors at steps that were doubled each time."""
    return -float(np.polyfit(np.arange(len(errors)) * math.log(2), np.log(errors), 1)[0])


def zero(y, s):
    return torch.zeros_like(y)


# ------------------------------------------------------------------------- the probability flow
@EVERY
@pytest.mark.parametrize("options", [{}, {"solver": "heun"}, {"solver": "rk4", "steps": 50}])
def test_the_flow_of_one_gaussian_is_linear(process, options):
    # N2 has a mean: the flow keeps the distance from it in units of its own spread
    before, after = law_at("N2", process, first(process)), law_at("N2", process, UNTIL)
    x0 = torch.randn(20, 2, generator=rng(), dtype=torch.float64)
    want = after.means[0] + after.stds[0] / before.stds[0] * (x0 - before.means[0])
    options = options or {"rtol": 1e-8, "atol": 1e-10}
    got = probability_flow(PROCESSES[process], exact(process, "N2"), x0, until=UNTIL, **options)
    scale = float(want.abs().max())
    tolerance = {"heun": 4e-3, "rk4": 4e-5}.get(options.get("solver"), 1e-6)
    assert float((got.x - want).abs().max()) < tolerance * scale


@EVERY
@pytest.mark.parametrize(("solver", "order", "steps"), [("heun", 2, 32), ("rk4", 4, 16)])
def test_order_of_the_fixed_step_solvers(process, solver, order, steps):
    errors = [quantile_error(process, solver=solver, steps=steps * 2**k) for k in range(4)]
    assert slope(errors) == pytest.approx(order, abs=0.3)
    assert errors[-1] < {"heun": 2e-4, "rk4": 2e-6}[solver]


@EVERY
def test_the_adaptive_solver_obeys_its_tolerance(process):
    errors = [quantile_error(process, rtol=r, atol=r / 1e3) for r in (1e-3, 1e-5, 1e-7, 1e-9)]
    assert all(b < 0.2 * a for a, b in pairwise(errors))
    assert errors[0] < 1e-2
    assert errors[-1] < 1e-7


@EVERY
@pytest.mark.parametrize("solver", ["rk45", "heun", "rk4"])
def test_a_network_that_stores_nothing_moves_nothing(process, solver):
    x0 = start(PROCESSES[process], (7, 1, 4, 4), rng())
    assert torch.equal(probability_flow(PROCESSES[process], zero, x0, solver=solver).x, x0)


@EVERY
@pytest.mark.parametrize("name", ENTROPY)
def test_flowed_samples_have_the_datas_log_density(process, name):
    # section 11, item 11
    mixture = GaussianMixture.named(name)
    x0 = start(PROCESSES[process], (4000, mixture.dim), rng(1))
    log_p = mixture.log_prob(probability_flow(PROCESSES[process], exact(process, name), x0).x)
    assert float(log_p.mean() + ENTROPY[name]) == pytest.approx(0, abs=float(4 * error(log_p)))


def error(values: torch.Tensor) -> torch.Tensor:
    return values.std() / len(values) ** 0.5


# -------------------------------------------------------------------------- the reverse SDE
def variance(process: str, monkeypatch, **options) -> float:
    """Variance that the SDE gives N1, without chance.

    All is linear: each row is the response to the noise of one step, the last to the start.
    """
    flow, steps, drawn = PROCESSES[process], options["steps"], iter(range(options["steps"]))

    def impulse(size, **_):
        z = torch.zeros(size, dtype=torch.float64)
        z[next(drawn)] = 1
        return z

    x0 = torch.zeros(steps + 1, 1, dtype=torch.float64)
    x0[-1] = law_at("N1", process, first(process)).stds[0]
    with monkeypatch.context() as patch:
        patch.setattr(sampling.torch, "randn", impulse)
        got = reverse_sde(flow, exact(process, "N1"), x0, rng(), until=UNTIL, **options)
    return float(got.x.square().sum())


@EVERY
@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_weak_order_of_the_reverse_sde(process, solver, order, monkeypatch):
    want = float(law_at("N1", process, UNTIL).stds[0]) ** 2
    steps = [32, 64, 128, 256]
    errors = [abs(variance(process, monkeypatch, solver=solver, steps=n) - want) for n in steps]
    assert slope(errors) == pytest.approx(order, abs=0.3)
    assert errors[-1] < {"euler": 0.15, "heun": 8e-3}[solver] * want


@EVERY
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_network_that_stores_nothing_leaves_equilibrium(process, solver):
    # even in three steps, for decay and noise are exact
    flow = PROCESSES[process]
    x0 = flow.kappa * torch.randn(100_000, generator=rng(1), dtype=torch.float64)[:, None]
    x = reverse_sde(flow, zero, x0, rng(2), solver=solver, steps=3).x / flow.kappa
    correlation = float((x * x0).mean()) / flow.kappa
    assert float(x.mean()) == pytest.approx(0, abs=4 / len(x) ** 0.5)
    assert float(x.square().mean()) == pytest.approx(1, abs=4 * (2 / len(x)) ** 0.5)
    ends = torch.tensor([UNTIL, first(process)], dtype=torch.float64)
    decay = float(flow.log_mu(ends).diff().exp())
    assert correlation == pytest.approx(decay, abs=4 / len(x) ** 0.5)


@EVERY
@pytest.mark.parametrize("name", ENTROPY)
def test_diffused_samples_have_the_datas_log_density(process, name):
    mixture = GaussianMixture.named(name)
    x0 = start(PROCESSES[process], (4000, mixture.dim), rng(1))
    got = reverse_sde(PROCESSES[process], exact(process, name), x0, rng(2))
    log_p = mixture.log_prob(got.x)
    assert float(log_p.mean() + ENTROPY[name]) == pytest.approx(0, abs=float(4 * error(log_p)))


def test_the_same_generator_gives_the_same_samples():
    flow, x0 = PROCESSES["vp"], start(PROCESSES["vp"], (6, 2), rng())
    a, b, c = (reverse_sde(flow, exact("vp", "G2"), x0, rng(k), steps=5).x for k in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


# --------------------------------------------------------------------------------- both
@EVERY
def test_the_start_is_p_0(process):
    flow = PROCESSES[process]
    x = start(flow, (20_000, 1, 2, 2), rng())
    assert (x.shape, x.dtype) == ((20_000, 1, 2, 2), torch.float32)
    assert float(x.std()) == pytest.approx(flow.prior_std(), rel=4 / (2 * x.numel()) ** 0.5)
    assert torch.equal(x, start(flow, (20_000, 1, 2, 2), rng()))
    assert not torch.equal(x, start(flow, (20_000, 1, 2, 2), rng(1)))


@EVERY
@pytest.mark.parametrize("steps", [1, 7, 40])
def test_steps_are_equal_in_the_signal_to_noise_ratio(process, steps):
    flow = PROCESSES[process]
    s, step = sampling._times(flow, UNTIL, steps)
    assert (float(s[0]), float(s[-1])) == pytest.approx((first(process), UNTIL), rel=1e-12)
    ratio = (flow.mu(s) / flow.std(s)).log()
    torch.testing.assert_close(ratio.diff(), torch.full((steps,), step, dtype=torch.float64))


class Counting:
    """A network with classes that remembers what it was given."""

    def __init__(self) -> None:
        self.seen = []

    def __call__(self, y, s, *labels):
        self.seen.append((y.shape, y.dtype, s.shape, s.dtype, float(s), *labels))
        move = labels[0].to(y.dtype).reshape(-1, 1, 1, 1) if labels else y
        return 0.1 * move.expand_as(y)


CALLS = {
    "rk45": (probability_flow, {"solver": "rk45"}, None),
    "flow-heun": (probability_flow, {"solver": "heun", "steps": 6}, 12),
    "rk4": (probability_flow, {"solver": "rk4", "steps": 6}, 24),
    "euler": (reverse_sde, {"solver": "euler", "steps": 6}, 6),
    "sde-heun": (reverse_sde, {"solver": "heun", "steps": 6}, 12),
}


@EVERY
@pytest.mark.parametrize("labels", [None, torch.tensor([0, 3, 0, 3, 5])])
@pytest.mark.parametrize("call", CALLS)
def test_what_the_network_is_asked(process, labels, call):
    sample, options, count = CALLS[call]
    flow, net = PROCESSES[process], Counting()
    x0 = start(flow, (5, 1, 2, 2), rng())
    noise = (rng(),) if sample is reverse_sde else ()
    got = sample(flow, net, x0, *noise, labels=labels, **options)
    assert got.evaluations == len(net.seen) == (count or len(net.seen))
    assert (got.x.shape, got.x.dtype) == (x0.shape, torch.float32)
    for shape, dtype, s_shape, s_dtype, s, *given in net.seen:
        assert (shape, dtype, s_shape, s_dtype) == (x0.shape, torch.float32, (1,), torch.float32)
        assert UNTIL * (1 - 1e-6) <= s <= first(process)
        assert [g.tolist() for g in given] == ([] if labels is None else [labels.tolist()])
    assert net.seen[0][4] == pytest.approx(first(process))
    if labels is not None and sample is probability_flow:
        moved = (got.x - x0).flatten(1).mean(1)
        want = moved[4] / 5 * labels.float()
        assert moved[4] > 0
        torch.testing.assert_close(moved, want, rtol=1e-3, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("call", CALLS)
def test_a_gpu_gives_what_the_cpu_gives(call):
    sample, options, _ = CALLS[call]
    flow, made = PROCESSES["sl"], {}
    x0 = start(flow, (5, 1, 2, 2), rng())
    for device in ("cpu", "cuda"):
        noise = (torch.Generator(device),) if sample is reverse_sde else ()
        made[device] = sample(flow, lambda y, s: -y * s, x0.to(device), *noise, **options).x
    assert made["cuda"].is_cuda
    if sample is probability_flow:  # noise is another one on each kind of device
        torch.testing.assert_close(made["cuda"].cpu(), made["cpu"], rtol=1e-4, atol=1e-6)
    assert start(flow, (2, 3), torch.Generator("cuda")).is_cuda


@pytest.mark.parametrize("until", [0.0, -0.1, 1.0])
def test_an_impossible_last_time_is_an_error(until):
    flow, x0 = PROCESSES["sl"], torch.zeros(1, 1)
    for call in ("rk45", "rk4", "euler"):
        sample, options, _ = CALLS[call]
        noise = (rng(),) if sample is reverse_sde else ()
        with pytest.raises(ValueError, match=r"until must lie between 0 and 0\.99999"):
            sample(flow, zero, x0, *noise, until=until, **options)


def test_unknown_solvers_and_no_steps_are_errors():
    flow, x0 = PROCESSES["vp"], torch.zeros(1, 1)
    with pytest.raises(ValueError, match=r"'dopri'.*rk45, heun or rk4"):
        probability_flow(flow, zero, x0, solver="dopri")
    with pytest.raises(ValueError, match=r"'rk4'.*euler or heun"):
        reverse_sde(flow, zero, x0, rng(), solver="rk4")
    with pytest.raises(ValueError, match="at least 1"):
        probability_flow(flow, zero, x0, solver="heun", steps=0)
    with pytest.raises(ValueError, match="at least 1"):
        reverse_sde(flow, zero, x0, rng(), steps=0)


@pytest.mark.timeout(20)
def test_a_network_that_broke_is_told_and_not_waited_for():
    with pytest.raises(ArithmeticError, match="not finite at s = 1"):
        probability_flow(PROCESSES["vp"], lambda y, s: y / 0, torch.ones(2, 1))
