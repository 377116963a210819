"""The bijections against their own Jacobians, their inverses, and the reference arrays."""

import copy
import math

from lightning_modules.eiw_flow.layers import (
    ActNorm,
    AffineCoupling,
    ConvNet,
    FlowStep,
    Mix1x1,
    Squeeze,
    Steps,
)
from lightning_modules.flows import Chain, Noise, bits_per_dim

import pytest
import torch
from jacobians import images, logdet_by_autograd, shaken
from official import DTYPES, arrays


def _norm(channels):
    norm = ActNorm(channels)
    norm(torch.randn(64, channels, 3, 3) * 2 + 1)
    return norm


def _coupling(channels):
    half = channels // 2
    return AffineCoupling(ConvNet(half, 8, 2 * (channels - half)))


def _step(channels):
    half = channels // 2
    return FlowStep(channels, ConvNet(half, 8, 2 * (channels - half)))


TRANSFORMS = {
    "actnorm": lambda: _norm(6),
    "mix": lambda: Mix1x1(6),
    "coupling": lambda: _coupling(6),
    "coupling-odd": lambda: _coupling(5),
    "squeeze": Squeeze,
    "step": lambda: _step(6),
    "step-odd": lambda: _step(5),
    "steps": lambda: Steps([_step(6), _step(6), _step(6)]),
    "chain": lambda: Chain([_step(5), Squeeze(), _step(20)]),
}


def _shape(name):
    return (5 if name in ("coupling-odd", "step-odd", "chain") else 6, 4, 4)


@pytest.mark.parametrize("name", TRANSFORMS)
class TestEveryTransform:
    def test_logdet_is_that_of_the_jacobian(self, name):
        transform, x = shaken(TRANSFORMS[name]()), images(2, *_shape(name))
        _, logdet = transform(x)
        exact = logdet_by_autograd(lambda v: transform(v)[0], x)
        assert logdet.shape == (2,)
        torch.testing.assert_close(logdet, exact, rtol=0, atol=1e-9)

    def test_inverse_both_ways(self, name):
        transform, x = shaken(TRANSFORMS[name]()), images(3, *_shape(name))
        y, _ = transform(x)
        torch.testing.assert_close(transform.inverse(y), x, rtol=0, atol=1e-9)
        back = transform.inverse(images(3, *y.shape[1:], seed=1))
        torch.testing.assert_close(
            transform(back)[0], images(3, *y.shape[1:], seed=1), rtol=0, atol=1e-9
        )

    def test_inverse_in_single_precision(self, name):
        transform, x = shaken(TRANSFORMS[name]()).float(), images(3, *_shape(name)).float()
        torch.testing.assert_close(transform.inverse(transform(x)[0]), x, rtol=0, atol=1e-4)


def test_a_step_is_its_layers_and_swaps_halves():
    step, x = shaken(_step(6)), images(3, 6, 4, 4)
    y, logdet = x, 0
    for layer in (step.norm, step.mix, step.coupling):
        y, one = layer(y)
        logdet = logdet + one
    half = y.shape[1] // 2
    y = torch.cat([y[:, half:], y[:, :half]], 1)  # swapped
    torch.testing.assert_close(step(x)[0], y, rtol=0, atol=1e-12)
    torch.testing.assert_close(step(x)[1], logdet, rtol=0, atol=1e-11)


def test_the_coupling_network_is_the_one_of_stock_layers():
    ours = shaken(ConvNet(3, 8, 4))
    theirs = torch.nn.Sequential(
        *(torch.nn.ReLU() if not list(layer.parameters()) else layer for layer in ours)
    )
    assert sum(isinstance(layer, torch.nn.ReLU) for layer in theirs) == 2
    gradients = []
    for net in (ours, theirs):
        x = images(2, 3, 4, 4).requires_grad_()
        y = net(x)
        wanted = (x, *net.parameters())
        gradients.append((y, *torch.autograd.grad(y.sin().sum(), wanted)))
    torch.testing.assert_close(*gradients, rtol=0, atol=0)

    x = images(2, 3, 4, 4).requires_grad_()
    (first,) = torch.autograd.grad(ours(x).sin().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_an_odd_side_cannot_be_squeezed():
    with pytest.raises(ValueError, match="3 x 4 pixels cannot be squeezed"):
        Squeeze()(torch.zeros(1, 1, 3, 4))


class TestActNorm:
    def test_first_batch_in_training_sets_it_once(self):
        norm, x = ActNorm(3), images(50, 3, 4, 4).float() * 3 + 5
        y, _ = norm(x)
        torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
        spread = y.transpose(0, 1).flatten(1).std(1)  # unbiased, as what it was divided by
        torch.testing.assert_close(spread, torch.ones(3), atol=1e-5, rtol=0)
        before = copy.deepcopy(norm.state_dict())
        norm(100 * x)
        assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())

    def test_evaluation_does_not_set_it(self):
        norm = ActNorm(3).eval()
        x = images(5, 3, 2, 2).float()
        assert torch.equal(norm(x)[0], x)
        assert not norm.initialized

    def test_a_reloaded_one_is_not_set_again(self):
        first, second = _norm(3), ActNorm(3)
        second.load_state_dict(first.state_dict())
        second.train()(torch.randn(20, 3, 2, 2) * 9)
        assert torch.equal(second.shift, first.shift)

    def test_one_that_is_reloaded_unset_is_set(self):
        norm, fresh = _norm(3), ActNorm(3)
        norm.load_state_dict(fresh.state_dict())
        norm.train()(torch.randn(20, 3, 2, 2) * 9)
        assert norm.log_scale.min() > 1


class TestBf16:
    def test_only_the_nets_of_a_training_step(self):
        step, x = shaken(_step(6), 0.05).float(), images(8, 6, 8, 8).float()
        exact, logdet = step(x)
        step.coupling.bf16 = True
        assert torch.equal(step(x)[0], exact)  # evaluation stays in full precision
        step.train()
        step.norm._known = True
        rough, other = step(x)
        assert rough.dtype == torch.float32
        assert not torch.equal(rough, exact)
        shift = bits_per_dim(other - logdet, x[0].numel()).abs()
        assert shift.max() < 1e-3


def test_noise_is_given_shared_or_drawn():
    like = torch.zeros(1, dtype=torch.float64)
    given = Noise(given=[torch.ones(2, 3)])
    assert given.normal((2, 3), like).sum() == 6
    with pytest.raises(ValueError, match=r"\(1, 3\) given, \(2, 3\) wanted"):
        Noise(given=[torch.ones(1, 3)]).uniform((2, 3), like)

    def draw(n, **share):
        return Noise(torch.Generator().manual_seed(3), **share).normal((n, 2), like)

    whole = draw(4)
    assert whole.dtype == torch.float64
    assert torch.equal(torch.cat([draw(2, rank=r, world=2) for r in (0, 1)]), whole)


def test_bits():
    assert bits_per_dim(torch.tensor(-8 * 12 * math.log(2)), 12) == pytest.approx(8)


# ------------------------------------------------------------------ the authors' arrays
TOLERANCE = {"f64": 1e-10, "f32": 1e-5}  # of reference/README.md


@pytest.mark.data
@pytest.mark.parametrize("kind", TOLERANCE)
class TestReference:
    def test_actnorm(self, kind):
        dtype, atol = DTYPES[kind], TOLERANCE[kind]
        a = arrays("f3c_actnorm_conv1x1_squeeze")
        norm, x = ActNorm(6).to(dtype).eval(), a["x"].to(dtype)
        norm.load_state_dict(
            {
                "shift": a["w_actnorm/shift"],
                "log_scale": a["w_actnorm/log_scale"],
                "initialized": torch.tensor(True),
            }
        )
        z, logdet = norm(x)
        close(z, a[f"{kind}/actnorm/z"], atol)
        close(logdet, a[f"{kind}/actnorm/logdet"], 10 * atol)
        close(norm.inverse(z), x, atol)

    def test_actnorm_from_data(self, kind):
        dtype, atol = DTYPES[kind], TOLERANCE[kind]
        a = arrays("f3c_actnorm_conv1x1_squeeze")
        norm = ActNorm(6).to(dtype)
        z, logdet = norm(a["x"].to(dtype))
        close(z, a[f"{kind}/actnorm_init/z"], atol)
        close(logdet, a[f"{kind}/actnorm_init/logdet"], 10 * atol)
        close(norm.shift, a[f"{kind}/actnorm_init/shift"], atol)
        close(norm.log_scale, a[f"{kind}/actnorm_init/log_scale"], atol)

    def test_mix_and_squeeze(self, kind):
        dtype, atol = DTYPES[kind], TOLERANCE[kind]
        a = arrays("f3c_actnorm_conv1x1_squeeze")
        mix, x = Mix1x1(6).to(dtype), a["x"].to(dtype)
        mix.load_state_dict({"weight": a["w_conv1x1/weight"]})
        z, logdet = mix(x)
        close(z, a[f"{kind}/conv1x1/z"], atol)
        close(logdet, a[f"{kind}/conv1x1/logdet"], 10 * atol)
        close(mix.inverse(z), a[f"{kind}/conv1x1/inverse"], atol)
        close(Squeeze()(x)[0], a[f"{kind}/squeeze/z"], 0)

    def test_coupling(self, kind):
        dtype, atol = DTYPES[kind], TOLERANCE[kind]
        a = arrays("f3b_affine_coupling")
        raw = a[f"{kind}/params_raw"]
        coupling, x = AffineCoupling(_Given(raw)), a["x"].to(dtype)
        z, logdet = coupling(x)
        close(z, a[f"{kind}/z"], atol)
        close(logdet, a[f"{kind}/logdet"], 10 * atol)
        close(coupling.inverse(z), a[f"{kind}/inverse_of_z"], atol)
        step = FlowStep(x.shape[1], _Given(raw)).to(dtype).eval()
        step.mix.weight.data.copy_(torch.eye(x.shape[1]))
        close(step(x)[0], a[f"{kind}/switched"], atol)


class _Given(torch.nn.Module):
    """A network whose output is known."""

    def __init__(self, out):
        super().__init__()
        self.out = out

    def forward(self, x):
        return self.out


def close(ours, theirs, atol):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)
