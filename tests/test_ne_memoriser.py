"""The memorising network: the exact score of N points, and the entropy that it stores."""

import functools
import math

from datamodules import GaussianMixture
from lightning_modules.neural_entropy import PROCESSES, memoriser
from lightning_modules.neural_entropy.estimators import Window, entropy_curves, kl_to_gaussian
from lightning_modules.neural_entropy.memoriser import Memoriser, memorised_entropy

import numpy as np
import pytest
import torch
from fields import rng

EVERY = pytest.mark.parametrize("process", ["vp", "vpx", "sl"])

# section 5.5: N -> S on training points, formula, S on held-out points
TABLE = {
    16: (8.06, 7.99, 2660),
    64: (6.49, 6.46, 721),
    256: (5.30, 5.26, 215),
    1024: (3.81, 3.74, 45),
}


def empirical(points: torch.Tensor) -> GaussianMixture:
    x = points.double().flatten(1)
    n = torch.full((len(x),), 1 / len(x), dtype=torch.float64)
    return GaussianMixture(n, x, torch.zeros_like(n))


def direct(process, points, y, s):
    """e* from differences, without a Gram product."""
    law = empirical(points).diffused(process.mu(s), process.std(s))
    flat = y.double().flatten(1)
    return (law.score(flat) - process.score_eq(flat)).reshape(y.shape)


@functools.cache
def tables_points() -> dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """N -> training points, a draw from them, held-out points: the very ones of the table.

    With other points each entry would have the sampling error of ``mean |x|^2 / 2``, 0.5 nats at
    N = 16: half of what one e-fold of N makes.
    """
    d2, stream = GaussianMixture.named("D2"), np.random.default_rng(1)
    weights, means, stds = (v.numpy() for v in (d2.weights, d2.means, d2.stds))

    def sample(n):
        k = stream.choice(len(weights), p=weights, size=n)
        return torch.from_numpy(means[k] + stds[k, None] * stream.standard_normal((n, 2)))

    held_out, points = sample(2000), {}
    for n in TABLE:
        x = sample(n)
        few = 400 if n > 300 else 2000
        again = x[torch.from_numpy(stream.integers(0, n, 2000))][:few]
        points[n] = (x, again, held_out[:few])
        stream.standard_normal((120, 2000, 2))  # the noise of its two integrals
    return points


@functools.cache
def stored(n: int, held_out: bool) -> tuple[float, float]:
    x, again, other = tables_points()[n]
    vp = PROCESSES["vp"]
    window = Window.exact(32, lo=1e-3)
    curves = entropy_curves(vp, Memoriser(vp, x), other if held_out else again, window, rng())
    return curves.integral("neural")


# -------------------------------------------------------------------------------------- the field
@EVERY
@pytest.mark.parametrize("shape", [(1,), (3,), (1, 4, 5)])
def test_field_is_the_score_of_the_points(process, shape, monkeypatch):
    monkeypatch.setattr(memoriser, "_LOGITS", 40)  # four chunks of rows
    flow = PROCESSES[process]
    points = torch.randn(11, *shape, generator=rng(), dtype=torch.float64) + 2
    y = torch.randn(10, *shape, generator=rng(1), dtype=torch.float64)
    s = torch.linspace(0.02, 0.98, 10, dtype=torch.float64)
    field = Memoriser(flow, points)
    want = torch.cat([direct(flow, points, y[i : i + 1], s[i]) for i in range(10)])
    torch.testing.assert_close(field(y, s), want, rtol=1e-9, atol=1e-8)
    labels = torch.zeros(10, dtype=torch.int64)
    torch.testing.assert_close(field(y, s, labels), field(y, s), rtol=0, atol=0)
    one = s[3:4]
    torch.testing.assert_close(field(y, one), field(y, one.expand(10)), rtol=0, atol=0)
    assert field(y.float(), s.float()).dtype == torch.float32


@EVERY
def test_rows_without_weight_are_left_out_exactly(process):
    # far apart and early: each row holds one point alone, and not the same for all rows
    flow, points = PROCESSES[process], 10 * torch.randn(50, 4, generator=rng()).double()
    s = torch.tensor([1e-3], dtype=torch.float64)
    y = flow.mu(s) * points[7:12] + flow.std(s) * torch.randn(5, 4, generator=rng(1)).double()
    want = (flow.mu(s) * points[7:12] - y) / flow.std(s) ** 2 - flow.score_eq(y)
    torch.testing.assert_close(Memoriser(flow, points)(y, s), want, rtol=1e-9, atol=1e-6)


def test_close_points_need_float64():
    """Two points 2e-3 apart at std = 1e-3, far from the others: exponents that nearly cancel."""
    vp, s = PROCESSES["vp"], torch.tensor([1e-5], dtype=torch.float64)
    points = torch.tensor([[3.0, 4.0], [3.002, 4.0], [-5.0, 0.0]], dtype=torch.float64)
    noise = torch.randn(500, 2, generator=rng()).double()
    y = vp.mu(s) * points[:2].repeat(250, 1) + vp.std(s) * noise
    want = direct(vp, points, y, s[0])
    scale = want.square().mean().sqrt()
    double, single = (Memoriser(vp, points, dtype)(y, s) for dtype in (torch.double, torch.float))
    assert float((double - want).abs().max() / scale) < 1e-6
    assert float((single - want).abs().max() / scale) > 0.1


@pytest.mark.parametrize("s", [1e-5, 1e-3, 0.03, 0.3, 1.0])
def test_images_do_not_need_float64(s):
    vp, s = PROCESSES["vp"], torch.tensor([s], dtype=torch.float64)
    points = (torch.rand(300, 1, 28, 28, generator=rng()) * 2 - 1).clamp(min=0)
    x = torch.cat([points[:20], torch.rand(20, 1, 28, 28, generator=rng(1))])
    y = (vp.mu(s) * x + vp.std(s) * torch.randn(x.shape, generator=rng(2))).float()
    double, single = (Memoriser(vp, points, dtype)(y, s) for dtype in (torch.double, torch.float))
    norms = [e.double().flatten(1).square().sum(1) for e in (double, single)]
    torch.testing.assert_close(norms[1], norms[0], rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("points", "y", "message"),
    [((0, 2), (3, 2), "at least one point"), ((4, 2), (3, 5), r"shape \(5,\), the points \(2,\)")],
)
def test_bad_shapes_are_refused(points, y, message):
    with pytest.raises(ValueError, match=message):
        Memoriser(PROCESSES["vp"], torch.zeros(points))(torch.zeros(y), torch.ones(1))


# ---------------------------------------------------------------------------------- what it stores
@pytest.mark.parametrize("n", TABLE)
def test_table_on_training_points(n):
    value, error = stored(n, held_out=False)
    assert value == pytest.approx(TABLE[n][0], rel=0.02, abs=2 * error)
    assert memorised_entropy(PROCESSES["vp"], tables_points()[n][0], 1e-3) == pytest.approx(
        TABLE[n][1], abs=0.006
    )


@pytest.mark.parametrize("n", TABLE)
def test_table_on_held_out_points(n):
    value, _ = stored(n, held_out=True)
    assert value == pytest.approx(TABLE[n][2], rel=0.02)
    assert value / stored(n, held_out=False)[0] > 10


def test_a_memoriser_stores_one_nat_less_per_e_fold():
    log_n = np.log(list(TABLE))
    measured = [stored(n, held_out=False)[0] for n in TABLE]
    closed = [memorised_entropy(PROCESSES["vp"], tables_points()[n][0], 1e-3) for n in TABLE]
    assert np.polyfit(log_n, measured, 1)[0] == pytest.approx(-1, abs=0.1)
    assert np.polyfit(log_n, closed, 1)[0] == pytest.approx(-1, abs=0.1)


def kl_to_equilibrium(process, law: GaussianMixture) -> float:
    x, mass = law.nodes(100)
    entropy = -float(mass @ law.log_prob(x))
    return kl_to_gaussian(entropy, law.second_moment(), law.dim, process.kappa)


@EVERY
def test_formula_while_no_kernels_overlap(process):
    """Against quadrature of the same drop; the law at the end is nearly, not quite, Gaussian."""
    flow, eps = PROCESSES[process], torch.tensor(1e-4, dtype=torch.float64)
    points = torch.tensor([[-1.5], [0.2], [0.9], [2.0]], dtype=torch.float64)
    first, last = (
        empirical(points).diffused(flow.mu(s), flow.std(s)) for s in (eps, torch.ones_like(eps))
    )
    left = kl_to_equilibrium(flow, last)
    value = memorised_entropy(flow, points, 1e-4)
    assert value == pytest.approx(kl_to_equilibrium(flow, first) - left, abs=2e-6)
    # the page's form, whose |x|^2 is that of s = 0
    square, spread = float(points.square().mean()), float(flow.std(eps)) ** 2
    page = square / (2 * flow.kappa**2) - math.log(4) - 0.5 - 0.5 * math.log(spread)
    assert value + left == pytest.approx(page + math.log(flow.kappa), rel=2e-3)


@EVERY
def test_formula_is_what_the_field_integrates_to(process):
    flow, points = PROCESSES[process], torch.rand(12, 1, 4, 4, generator=rng()).double()
    hi = 1 - 1e-5
    window, x = Window.exact(48, lo=1e-4, hi=hi), points.repeat(40, 1, 1, 1)
    curves = entropy_curves(flow, Memoriser(flow, points), x, window, rng(1))
    assert curves.integral("neural")[0] == pytest.approx(
        memorised_entropy(flow, points, 1e-4), rel=5e-3
    )
