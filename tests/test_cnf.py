"""The continuous flow against tight solutions, autograd's Jacobians and closed forms."""

import math

from lightning_modules.eiw_flow import ContinuousFlow, Integrator
from lightning_modules.eiw_flow.cnf import CNF, Field, Logit
from lightning_modules.eiw_flow.shuffle import MODES
from lightning_modules.flows import Noise

import numpy as np
import pytest
import torch
from jacobians import images, logdet_by_autograd, shaken

TIGHT = {
    "rk4": Integrator(steps=64, trace="exact"),
    "dopri5": Integrator("dopri5", atol=1e-10, rtol=1e-10, trace="exact"),
}


def cnf(channels=2, hidden=(4, 4), scale=0.2, **options):
    torch.manual_seed(0)
    return shaken(CNF(Field(channels, hidden), **options), scale)


def flow(shape=(1, 8, 8), scales=3, alpha=0.05, shake=0.1, **options):
    torch.manual_seed(0)
    net = ContinuousFlow(shape, scales, (4,), n_blocks=1, alpha=alpha, **options)
    return shaken(net, shake)


def seeded(seed=0, **share):
    return Noise(torch.Generator().manual_seed(seed), **share)


def pixels(n, *shape):
    return images(n, *shape).sigmoid() - 0.5


def flat(latents):
    return torch.cat([z.flatten(1) for z in latents], 1)


def standard(z):
    return -0.5 * (z**2).sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)


class Linear(torch.nn.Module):
    """``f(t, x) = A x`` on the flattened sample: every pixel sees every other."""

    reach = 99

    def __init__(self, matrix):
        super().__init__()
        self.matrix = matrix

    def forward(self, t, x, v=None):
        def product(u):
            return (u.flatten(-3) @ self.matrix.T).reshape(u.shape)

        return product(x), None if v is None else product(v)


MATRIX = torch.tensor(
    [[0.3, -0.8, 0.1, 0.0], [0.5, -0.2, 0.4, 0.9], [0.0, 0.7, 0.6, -0.3], [-1.0, 0.2, 0.1, 0.4]],
    dtype=torch.float64,
)


# ------------------------------------------------------------------------- one equation
class TestSolution:
    @torch.no_grad()
    def test_the_error_falls_at_fourth_order(self):
        net, x, steps = cnf(scale=0.3), images(3, 2, 2, 2), (4, 8, 16, 32)
        net.evaluate_by = Integrator("dopri5", atol=1e-13, rtol=1e-13, trace="exact")
        exact, errors = net(x), []
        for n in steps:
            net.evaluate_by = Integrator(steps=n, trace="exact")
            errors.append([float((a - b).abs().max()) for a, b in zip(net(x), exact, strict=True)])
        slopes = np.polyfit(np.log([1 / n for n in steps]), np.log(errors), 1)[0]
        assert slopes == pytest.approx([4, 4], abs=0.3)  # of the state, of the log-determinant

    @pytest.mark.parametrize("method", TIGHT)
    def test_logdet_is_that_of_the_jacobian(self, method):
        net, x = cnf(scale=0.3, evaluation=TIGHT[method]), images(1, 2, 2, 2)
        exact = logdet_by_autograd(lambda v: net(v)[0], x)
        assert exact.abs() > 0.1
        torch.testing.assert_close(net(x)[1], exact, rtol=0, atol=1e-6)

    def test_logdet_where_pixels_share_a_direction(self):
        """Fields of reach 2 on 3 x 4 pixels: those that are 3 apart do not see each other."""
        net, x, seen = cnf(1, (4,), 0.4, evaluation=TIGHT["dopri5"]), images(1, 1, 3, 4), set()
        net.field.register_forward_hook(lambda module, args, out: seen.add(len(args[2])))
        exact = logdet_by_autograd(lambda v: net(v)[0], x)
        assert seen == {9}
        torch.testing.assert_close(net(x)[1], exact, rtol=0, atol=1e-6)

    @torch.no_grad()
    @pytest.mark.parametrize("method", TIGHT)
    def test_round_trip(self, method):
        net, x = cnf(evaluation=TIGHT[method]), images(3, 2, 4, 2)
        y, _ = net(x)
        assert (y - x).abs().min() > 1e-3
        torch.testing.assert_close(net.inverse(y), x, rtol=0, atol=1e-6)
        torch.testing.assert_close(net(net.inverse(x))[0], x, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("method", TIGHT)
    def test_a_linear_field_in_closed_form(self, method):
        net, x = CNF(Linear(MATRIX), evaluation=TIGHT[method]).eval(), images(3, 1, 2, 2)
        y, logdet = net(x)
        solution = x.flatten(1) @ torch.linalg.matrix_exp(MATRIX).T
        torch.testing.assert_close(y.flatten(1), solution, rtol=0, atol=1e-7)
        torch.testing.assert_close(logdet, MATRIX.trace().expand(3), rtol=0, atol=1e-9)

    @torch.no_grad()
    def test_an_adaptive_solver_ends_where_it_should(self):
        """Past the end and back by interpolation, it would be 7 times the tolerance away."""
        net, x = cnf(scale=0.15, evaluation=Integrator("dopri5")), images(2, 2, 2, 2)
        y, _ = net(x, seeded())
        net.evaluate_by = TIGHT["rk4"]
        torch.testing.assert_close(y, net(x)[0], rtol=0, atol=1e-6)

    def test_bounded_memory(self, monkeypatch):
        net, x = cnf(), images(3, 2, 4, 4)
        whole = net(x)[1]
        monkeypatch.setattr("lightning_modules.eiw_flow.cnf.ROWS", 12)
        torch.testing.assert_close(net(x)[1], whole, rtol=0, atol=1e-12)

    def test_in_single_precision_and_without_autograd(self):
        net, x = cnf(), images(3, 2, 4, 4)
        _, exact = net(x)
        with torch.inference_mode():
            torch.testing.assert_close(net(x)[1], exact)
            y, logdet = net.float()(x.float())
        assert y.dtype == logdet.dtype == torch.float32
        torch.testing.assert_close(logdet, exact.float(), rtol=0, atol=1e-4)

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"method": "rk5"}, "by rk4 or dopri5, not 'rk5'"),
            ({"trace": "skilling"}, "hutchinson or exact, not 'skilling'"),
            ({"steps": 0}, "at least one step"),
            ({"atol": 0.0}, "tolerances above 0"),
        ],
    )
    def test_settings_that_cannot_be(self, settings, says):
        with pytest.raises(ValueError, match=says):
            Integrator(**settings)


# ------------------------------------------------------------------- Hutchinson's trace
class TestHutchinson:
    def estimate(self, **options):
        return cnf(evaluation=Integrator(steps=2), **options)

    @torch.no_grad()
    def test_its_mean_is_the_exact_trace(self):
        net, x, n = self.estimate(scale=0.5), images(1, 2, 2, 2), 4096
        draws = net(x.expand(n, -1, -1, -1), seeded())[1]
        net.evaluate_by = Integrator(steps=2, trace="exact")
        assert draws.std() > 0.01
        assert abs(draws.mean() - net(x)[1]) < 4 * draws.std() / math.sqrt(n)

    def test_its_signs_are_held_along_the_trajectory(self):
        """Of a linear field the estimate is then ``e' A e``, whatever the number of steps."""
        net, x = CNF(Linear(MATRIX), Integrator(steps=3)), images(2, 1, 2, 2)
        e = seeded().rademacher(x.shape, x)
        quadratic = ((e.flatten(1) @ MATRIX.T) * e.flatten(1)).sum(1)
        logdet = net.train()(x, Noise(given=[e]))[1]
        torch.testing.assert_close(logdet, quadratic, rtol=0, atol=1e-12)

    def test_the_generator_decides(self):
        net, x = self.estimate(), images(4, 2, 2, 2)
        value = net(x, seeded())[1]
        assert torch.equal(net(x, seeded())[1], value)
        assert not torch.equal(net(x, seeded(1))[1], value)
        halves = [net(x[2 * r :][:2], seeded(rank=r, world=2))[1] for r in (0, 1)]
        torch.testing.assert_close(torch.cat(halves), value, rtol=0, atol=1e-12)

    def test_signs(self):
        like = torch.zeros(1, dtype=torch.float64)
        signs = seeded().rademacher((100, 100), like)
        assert signs.dtype == torch.float64
        assert signs.unique().tolist() == [-1, 1]
        assert abs(signs.mean()) < 4 / 100

    def test_it_trains_and_the_exact_trace_evaluates(self):
        net, x = cnf(integrator=Integrator(steps=3)), images(2, 2, 2, 2)
        exact = net(x, seeded(0))[1]
        assert torch.equal(net(x, seeded(1))[1], exact)
        estimate = net.train()(x, seeded(0))[1]
        assert not torch.allclose(estimate, exact)
        net.train_by = Integrator(steps=3, trace="exact")
        assert torch.equal(net(x)[1], exact)


# ---------------------------------------------------------------------------- the logit
class TestLogit:
    def test_logdet_and_inverse(self):
        logit, x = Logit(0.05), pixels(3, 1, 2, 3)
        y, logdet = logit(x)
        torch.testing.assert_close(y, torch.logit(0.05 + 0.9 * (x + 0.5)), rtol=0, atol=1e-12)
        exact = logdet_by_autograd(lambda v: logit(v)[0], x)
        torch.testing.assert_close(logdet, exact, rtol=0, atol=1e-9)
        torch.testing.assert_close(logit.inverse(y), x, rtol=0, atol=1e-12)

    def test_the_edges_in_single_precision(self):
        x = torch.tensor([-0.5, 0.5]).reshape(1, 2, 1, 1)
        y, logdet = Logit(1e-6)(x)
        edge = math.log(1e-6 / (1 - 1e-6))
        torch.testing.assert_close(y.flatten(), torch.tensor([edge, -edge]), rtol=1e-4, atol=0)
        assert logdet.isfinite()

    def test_alpha_that_cannot_be(self):
        with pytest.raises(ValueError, match="between 0 and 1/2, not 0"):
            Logit(0.0)


# ---------------------------------------------------------------------------- the model
class TestContinuousFlow:
    def test_log_prob_is_the_prior_s_plus_the_jacobian_s(self):
        net = flow((1, 4, 4), 2, order="random", evaluation=TIGHT["dopri5"])
        x = pixels(1, 1, 4, 4)
        net.last.mean.data.zero_()
        net.last.log_scale.data.zero_()
        encoding = net(x)
        exact = standard(flat(encoding.latents)) + logdet_by_autograd(
            lambda v: flat(net(v).latents), x
        )
        torch.testing.assert_close(encoding.log_prob, exact, rtol=0, atol=1e-6)

    @torch.no_grad()
    @pytest.mark.parametrize("mode", MODES)
    def test_round_trip_with_every_order(self, mode):
        net, x = flow(order=mode), pixels(2, 1, 8, 8)
        latents = net(x).latents
        assert [z.shape[1:] for z in latents] == [torch.Size(s) for s in net.latent_shapes]
        assert net.latent_shapes == [(2, 4, 4), (4, 2, 2), (4, 2, 2)]
        torch.testing.assert_close(net.inverse(latents), x, rtol=0, atol=1e-5)

    @torch.no_grad()
    def test_samples_have_the_density_of_their_latents(self):
        net = flow(order="eiw", evaluation=TIGHT["dopri5"])
        x = net.sample(3, seeded())
        torch.testing.assert_close(net.inverse(net(x).latents), x, rtol=0, atol=1e-6)

    def test_it_starts_as_the_identity(self):
        net, x = flow(shake=0, alpha=0.0), pixels(2, 1, 8, 8)
        torch.testing.assert_close(net(x).log_prob, standard(x.flatten(1)), rtol=0, atol=1e-12)

    def test_the_guider_s_width(self):
        def hidden(**options):
            return [order.guider[0].out_features for order in flow(order="eiw", **options).orders]

        assert hidden() == [1, 2]  # a quarter of the channels
        assert hidden(order_args={"reduction": 2}) == [2, 4]

    def test_gradients_are_those_of_the_estimate(self):
        net, x = flow((1, 4, 4), 2, integrator=Integrator(steps=2)).train(), pixels(3, 1, 4, 4)
        parameters = list(net.parameters())

        def loss():
            return net(x, seeded()).log_prob.mean()

        gradients = torch.autograd.grad(loss(), parameters)
        assert all(g.abs().max() > 0 for g in gradients)
        along = [images(1, *p.shape, seed=i)[0] for i, p in enumerate(parameters)]
        values = []
        for step in (1e-4, -2e-4):
            torch._foreach_add_([p.data for p in parameters], along, alpha=step)
            values.append(float(loss().detach()))
        slope = sum(float((g * a).sum()) for g, a in zip(gradients, along, strict=True))
        assert (values[0] - values[1]) / 2e-4 == pytest.approx(slope, rel=1e-5)

    @torch.no_grad()
    @pytest.mark.parametrize("dims", [1, 2])
    def test_a_density_integrates_to_one(self, dims):
        net = flow((dims, 1, 1), 1, 0.0, 0.4, evaluation=Integrator(steps=8, trace="exact"))
        line = torch.linspace(-12, 12, 81, dtype=torch.float64)
        grid = torch.cartesian_prod(*[line] * dims).reshape(-1, dims, 1, 1)
        p = net(grid).log_prob.exp()
        assert float(p.sum() * 0.3**dims) == pytest.approx(1, abs=1e-4)

    def test_a_shape_that_cannot_be_halved(self):
        with pytest.raises(ValueError, match="28 x 28 pixels cannot be halved 3 times"):
            ContinuousFlow((1, 28, 28), 4)
