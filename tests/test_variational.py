"""Variational dequantisation: a density over the unit cube that costs what it should."""

import math

from lightning_modules.eiw_flow import DenseFlow, EIWFlow, MultiScale, VariationalDequantizer
from lightning_modules.eiw_flow.dense_nets import ResidualNet
from lightning_modules.eiw_flow.layers import AffineCoupling
from lightning_modules.eiw_flow.multiscale import Encoding
from lightning_modules.flows import Chain, Noise, bits_per_dim

import pytest
import torch
from jacobians import images, logdet_by_autograd, shaken


def tiny(shape=(1, 2, 2), bits=3, **options):
    torch.manual_seed(0)
    return VariationalDequantizer(
        shape,
        bits,
        steps=2,
        mid=8,
        depth=1,
        growth=4,
        context_depth=1,
        context_growth=4,
        **options,
    )


def integers(n, shape=(1, 2, 2), bits=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(2**bits, (n, *shape), generator=rng).float()


def rng(seed=0):
    return Noise(torch.Generator().manual_seed(seed))


class Box(MultiScale):
    """Images of independent pixels with a density on [-1/2, 1/2] that holds 2^-b in each cell.

    Within a cell it is uniform, or it rises for dark pixels, 0 to 3, and falls for light ones.
    """

    def __init__(self, sloped=False):
        super().__init__([Chain([])], [(1, 2, 2)], (1, 2, 2))
        self.sloped = sloped

    def forward(self, x, noise=None, trace=None):
        assert x.abs().max() <= 0.5
        cell = (x + 0.5) * 8
        u = cell % 1
        slope = torch.where(cell < 4, 2 * u, 2 * (1 - u)).clamp_min(1e-6)
        log_prob = slope.log().flatten(1).sum(1) if self.sloped else x.new_zeros(len(x))
        return Encoding([x], log_prob, [])


def bits_and_error(model, x, seed=0):
    """Mean bits/dim over images and its standard error."""
    bits = bits_per_dim(model(x, rng(seed)), 4).detach()
    return bits.mean(), bits.std() / math.sqrt(len(bits))


def test_the_published_size():
    with torch.device("meta"):
        parameters = sum(p.numel() for p in VariationalDequantizer().parameters())
    assert parameters == 2_395_784
    with pytest.raises(ValueError, match="3 x 4 pixels cannot be halved"):
        tiny((1, 3, 4))


def test_noise_stays_in_its_cell():
    shape = (3, 4, 6)
    dequantizer = shaken(tiny(shape, bits=8), 0.1).float()
    x = integers(16, shape, 8)
    x[0, 0, 0, :2] = torch.tensor([0.0, 255.0])
    read = []
    dequantizer.context.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    u, _ = dequantizer.draw(x, rng())
    assert [float(read[0].min()), float(read[0].max())] == [-1, 1]
    assert u.shape == x.shape
    assert 0 < u.min() < u.max() < 1
    y, cost = dequantizer(x, rng())
    torch.testing.assert_close(y, (x + u) / 256 - 0.5)
    assert torch.equal(dequantizer.inverse(y), x)
    assert cost.shape == (16,)


def test_its_density_is_the_base_s_through_the_jacobian():
    dequantizer = shaken(tiny((2, 4, 4)), 0.1)
    x = integers(1, (2, 4, 4)).double()
    noise = images(2, 8, 2, 2)
    u, log_density = dequantizer.draw(x.expand(2, -1, -1, -1), Noise(given=[noise]))
    exact = torch.distributions.Normal(0, 1).log_prob(noise).flatten(1).sum(1)
    exact = exact - logdet_by_autograd(lambda e: dequantizer.draw(x, Noise(given=[e]))[0], noise)
    torch.testing.assert_close(log_density, exact, rtol=0, atol=1e-9)
    y, cost = dequantizer(x.expand(2, -1, -1, -1), Noise(given=[noise]))
    torch.testing.assert_close(cost, -32 * 3 * math.log(2) - exact, rtol=0, atol=1e-9)
    torch.testing.assert_close(y, (x + u) / 8 - 0.5)


def test_its_density_integrates_to_one_over_the_unit_cube():
    """The mean of 1 / q(u | x) over draws from q is the cube's volume."""
    dequantizer, n = shaken(tiny(), 0.05), 20_000
    dequantizer.base.log_scale.data += math.log(1.8)  # wide enough for weights of finite spread
    x = integers(1).double().expand(n, -1, -1, -1)
    with torch.no_grad():
        weights = (-dequantizer.draw(x, rng())[1]).exp()
    error = weights.std() / math.sqrt(n)
    assert error < 0.02
    assert abs(weights.mean() - 1) < 4 * error


def test_untrained_it_costs_the_entropy_that_a_logistic_of_normal_noise_lacks():
    """Rotations leave normal noise alone, and the couplings start as the identity."""
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    normal = torch.distributions.Normal(0, 1).log_prob(z)
    log_density = normal - torch.nn.functional.logsigmoid(torch.stack([z, -z])).sum(0)
    excess = torch.trapezoid(normal.exp() * log_density, z) / math.log(2)
    assert 0.05 < excess < 0.3
    bits, error = bits_and_error(EIWFlow(Box(), tiny()), integers(8000))
    assert error < 0.01
    assert abs(bits - (3 + excess)) < 4 * error


def test_it_learns_from_the_image_where_the_density_lies():
    """Noise that does not read the image costs at least log2(4 / pi) = 0.35 bits on slopes."""
    model = EIWFlow(Box(sloped=True), tiny())
    optimizer = torch.optim.Adam(model.dequantizer.parameters(), 2e-2)
    x = integers(256)
    for step in range(70):
        optimizer.zero_grad()
        bits_per_dim(model(x, rng(step)).mean(), 4).backward()
        if step == 10:
            still = [n for n, p in model.dequantizer.named_parameters() if not p.grad.any()]
            assert still == []
        optimizer.step()
    bits, error = bits_and_error(model.eval(), integers(4000, seed=1), 1000)
    assert error < 0.01
    assert bits > 3 - 4 * error
    assert bits < 3.3


def test_a_coupling_that_reads_a_context():
    torch.manual_seed(0)
    net = shaken(ResidualNet(2 + 3, 4, 8, 1, 4), 0.3)
    coupling, x, context = AffineCoupling(net), images(2, 4, 2, 2), images(2, 3, 2, 2, seed=1)
    y, logdet = coupling(x, context=context)
    out = net(torch.cat([x[:, :2], context], 1))
    torch.testing.assert_close(logdet, (2 * torch.tanh(out[:, ::2] / 2)).sum((1, 2, 3)))
    assert torch.equal(y[:, :2], x[:, :2])
    assert not torch.equal(y, coupling(x, context=context.flip(0))[0])
    torch.testing.assert_close(coupling.inverse(y, context), x, rtol=0, atol=1e-9)
    exact = logdet_by_autograd(lambda v: coupling(v, context=context[:1])[0], x[:1])
    torch.testing.assert_close(logdet[:1], exact, rtol=0, atol=1e-9)


def test_its_networks_add_what_their_dense_block_finds():
    net, x = shaken(ResidualNet(3, 4, 8, 1, 4), 0.3), images(2, 3, 2, 2)
    whole = net(x)
    torch.nn.init.zeros_(net.dense[-1].conv.weight)
    torch.nn.init.zeros_(net.dense[-1].conv.bias)
    torch.testing.assert_close(net(x), net.last(net.first(x)))
    assert not torch.allclose(whole, net(x))


def test_with_denseflow_in_the_module():
    torch.manual_seed(0)
    net = DenseFlow((1, 8, 8), (2, 1), (1, 1), 2, 8, 2, 4, embed=4, order="eiw")
    model = EIWFlow(net, tiny((1, 8, 8))).eval()
    x = integers(3, (1, 8, 8))
    noise = rng()
    y, cost = model.dequantizer(x, noise)
    torch.testing.assert_close(model(x, rng()), cost + net(y, noise).log_prob)
    bound, mean = model.importance_bound(x, 8, rng())
    assert (bound > mean).all()
    sample = model.sample(2, rng())
    assert torch.equal(sample, sample.round())
    assert sample.shape == (2, 1, 8, 8)
