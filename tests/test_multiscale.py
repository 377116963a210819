"""Whole flows: density, latents, samples, and the module that trains them."""

import copy
import math

from lightning_modules.eiw_flow import EIWFlow, Glow, MultiScale, Uniform
from lightning_modules.eiw_flow.layers import ActNorm, ConvNet, FlowStep
from lightning_modules.eiw_flow.multiscale import Encoding
from lightning_modules.eiw_flow.priors import PRIORS, Diagonal
from lightning_modules.eiw_flow.shuffle import MODES
from lightning_modules.flows import Chain, Noise, bits_per_dim
from lightning_modules.randomness import step_generator

import pytest
import torch
from jacobians import images, logdet_by_autograd, shaken


def glow(shape=(1, 8, 8), scales=2, **options):
    torch.manual_seed(0)
    return Glow(shape, scales, steps=2, hidden=8, **options)


def shaken_glow(*args, **options):
    return shaken(glow(*args, **options), 0.1)


def flat(latents):
    return torch.cat([z.flatten(1) for z in latents], 1)


def standard(z):
    return -0.5 * (z**2).sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)


class TestDensity:
    @pytest.mark.parametrize(("shape", "scales"), [((1, 8, 8), 2), ((3, 4, 4), 2), ((2, 8, 8), 3)])
    def test_log_prob_is_the_prior_s_plus_the_jacobian_s(self, shape, scales):
        net, x = shaken_glow(shape, scales, order="random"), images(2, *shape)
        net.last.mean.data.zero_()
        net.last.log_scale.data.zero_()
        encoding = net(x)
        exact = standard(flat(encoding.latents)) + logdet_by_autograd(
            lambda v: flat(net(v).latents), x
        )
        torch.testing.assert_close(encoding.log_prob, exact, rtol=0, atol=1e-9)

    @pytest.mark.parametrize("mode", MODES)
    def test_round_trip_with_every_order(self, mode):
        net, x = shaken_glow((1, 8, 8), 3, order=mode), images(3, 1, 8, 8)
        torch.testing.assert_close(net.inverse(net(x).latents), x, rtol=0, atol=1e-9)
        net, x = net.float(), x.float()
        torch.testing.assert_close(net.inverse(net(x).latents), x, rtol=0, atol=1e-4)

    @pytest.mark.parametrize("prior", PRIORS)
    def test_samples_have_the_density_of_their_latents(self, prior):
        """Sampling is the inverse of reading, whatever is factored out and how it is drawn."""
        net = shaken_glow((1, 8, 8), 3, prior=prior, order="reverse")
        rng = torch.Generator().manual_seed(4)
        x = net.sample(5, Noise(rng))
        again = net(x).latents
        torch.testing.assert_close(net.inverse(again), x, rtol=0, atol=1e-9)
        assert [z.shape[1:] for z in again] == [torch.Size(s) for s in net.latent_shapes]
        assert sum(z[0].numel() for z in again) == net.dims == 64

    def test_a_density_of_one_dimension_integrates_to_one(self):
        norm = ActNorm(1)
        norm(images(64, 1, 1, 1).float() * 3 + 1)
        net = shaken(MultiScale([Chain([norm])], [(1, 1, 1)], (1, 1, 1)))
        x = torch.linspace(-60, 60, 40_001, dtype=torch.float64)
        total = torch.trapezoid(net(x.reshape(-1, 1, 1, 1)).log_prob.exp(), x).detach()
        assert float(total) == pytest.approx(1, abs=1e-6)

    def test_a_density_of_two_dimensions_integrates_to_one(self):
        torch.manual_seed(1)
        steps = [FlowStep(2, ConvNet(1, 8, 2)) for _ in range(3)]
        net = shaken(MultiScale([Chain(steps)], [(2, 1, 1)], (2, 1, 1)), 0.4)
        x = torch.linspace(-25, 25, 1201, dtype=torch.float64)
        grid = torch.cartesian_prod(x, x).reshape(-1, 2, 1, 1)
        p = torch.cat([net(part).log_prob for part in grid.split(200_000)]).exp()
        total = torch.trapezoid(torch.trapezoid(p.reshape(1201, 1201), x), x).detach()
        assert float(total) == pytest.approx(1, abs=1e-3)

    def test_with_an_order_that_is_undone_nothing_changes(self):
        """Relabelling: the layers after a split that see only symmetric things give the same."""
        torch.manual_seed(0)
        plain, shuffled = (
            MultiScale([Chain([]), Chain([])], [(4, 2, 2), (2, 2, 2)], (4, 2, 2), order=o)
            for o in ("identity", "random")
        )
        x = images(3, 4, 2, 2)
        torch.testing.assert_close(
            plain.double()(x).log_prob, shuffled.double()(x).log_prob, rtol=0, atol=1e-12
        )

    def test_the_features_at_the_splits(self):
        net, x, trace = shaken_glow((1, 8, 8), 3, order="reverse"), images(2, 1, 8, 8), []
        encoding = net(x, trace=trace)
        assert [s.u.shape[1] for s in trace] == [16, 32]
        for scale, z in zip(trace, encoding.latents, strict=False):
            assert torch.equal(scale.v, scale.u.flip(1))
            assert torch.equal(torch.cat([scale.x, scale.z], 1), scale.v)
            assert torch.equal(scale.z, z)

    def test_a_shape_that_cannot_be_halved(self):
        with pytest.raises(ValueError, match="28 x 28 pixels cannot be halved 3 times"):
            Glow((1, 28, 28), 3)
        with pytest.raises(ValueError, match="unknown prior 'flat'"):
            glow(prior="flat")


@pytest.mark.parametrize("name", PRIORS)
class TestPriors:
    def prior(self, name):
        torch.manual_seed(0)
        return shaken(PRIORS[name](1), 0.3)

    def test_integrates_to_one(self, name):
        z = torch.linspace(-40, 40, 20_001, dtype=torch.float64).reshape(-1, 1, 1, 1)
        kept = torch.full_like(z, 0.3)
        p = self.prior(name).log_prob(z, kept).exp()
        assert float(torch.trapezoid(p, z.flatten()).detach()) == pytest.approx(1, abs=1e-6)

    def test_draws_have_its_entropy(self, name):
        """The mean of -log p over draws is the entropy by quadrature."""
        prior, n = self.prior(name), 40_000
        kept = torch.full((n, 1, 1, 1), 0.3, dtype=torch.float64)
        z = prior.sample(kept, Noise(torch.Generator().manual_seed(1)), 1.0, kept)
        grid = torch.linspace(-40, 40, 20_001, dtype=torch.float64).reshape(-1, 1, 1, 1)
        log_p = prior.log_prob(grid, torch.full_like(grid, 0.3))
        entropy = torch.trapezoid(-log_p.exp() * log_p, grid.flatten())
        sample = -prior.log_prob(z, kept)
        assert abs(sample.mean() - entropy) < 4 * sample.std() / math.sqrt(n)

    def test_temperature_shrinks_its_draws(self, name):
        prior = self.prior(name)
        kept = torch.full((5000, 1, 1, 1), 0.3, dtype=torch.float64)
        spread = [
            prior.sample(kept, Noise(torch.Generator().manual_seed(1)), t, kept).std()
            for t in (1.0, 0.5)
        ]
        assert spread[1] < spread[0]


def test_temperatures():
    net = shaken_glow((1, 8, 8), 3)
    with torch.no_grad():
        net.last.mean.fill_(0.2)

    def draw(*args):
        return net.sample(4, Noise(torch.Generator().manual_seed(0)), *args)

    cold = net(draw(0.0)).latents
    assert max(z.abs().max() for z in cold[:-1]) < 1e-9
    torch.testing.assert_close(cold[-1], net.last.mean.expand_as(cold[-1]))
    warm, last_cold = net(draw()).latents, net(draw(1.0, 0.0)).latents
    torch.testing.assert_close(warm[0], last_cold[0])  # what is factored out stays at T = 1
    assert not torch.allclose(warm[-1], last_cold[-1])


# --------------------------------------------------------------------------- dequantised
def flow(mode="eiw", bits=4, **options):
    net = glow((1, 8, 8), 3, order=mode)
    return EIWFlow(net, Uniform(bits), **options)


def integers(n, bits=4, seed=0):
    return torch.randint(
        2**bits, (n, 1, 8, 8), generator=torch.Generator().manual_seed(seed)
    ).float()


class Box(MultiScale):
    """The identity under a uniform density on [-1/2, 1/2]."""

    def __init__(self):
        super().__init__([Chain([])], [(1, 8, 8)], (1, 8, 8))

    def forward(self, x, noise=None, trace=None):
        assert x.abs().max() <= 0.5
        return Encoding([x], x.new_zeros(len(x)), [])


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_uniform_noise_costs_its_bits(bits):
    model, x = EIWFlow(Box(), Uniform(bits)), integers(16, bits)
    noise = Noise(step_generator(0, "test"))
    torch.testing.assert_close(bits_per_dim(model(x, noise), 64), torch.full((16,), float(bits)))
    assert torch.equal(Uniform(bits).inverse(Uniform(bits)(x, noise)[0]), x)


class TestImportanceBound:
    def test_by_hand_and_in_bounded_memory(self):
        model, x = flow().eval(), integers(3)
        each = torch.stack([model(x, n) for n in [Noise(step_generator(1, "iw"))] * 5])
        for rows in (1, 6, 100):
            bound, mean = model.importance_bound(x, 5, Noise(step_generator(1, "iw")), rows)
            torch.testing.assert_close(bound, each.logsumexp(0) - math.log(5))
            torch.testing.assert_close(mean, each.mean(0))

    def test_it_rises_with_the_draws(self):
        model, x = shaken(flow(), 0.1), integers(64).double()
        bounds = [
            model.importance_bound(x, k, Noise(step_generator(2, "iw")))[0].mean()
            for k in (1, 4, 16)
        ]
        assert bounds[0] < bounds[1] < bounds[2]


def test_samples_are_integers():
    x = flow().eval().sample(4, Noise(step_generator(0, "sample")))
    assert x.shape == (4, 1, 8, 8)
    assert torch.equal(x, x.round())
    assert x.min() >= 0
    assert x.max() <= 15


def test_arms_share_their_backbone():
    flows = {mode: flow(mode).state_dict() for mode in MODES}
    for state in flows.values():
        for name, value in flows["identity"].items():
            if ".orders." not in f".{name}":
                assert torch.equal(state[name], value)


def test_a_learned_prior_of_the_last_scale_only():
    net = glow((1, 8, 8), 3)
    assert isinstance(net.last, Diagonal)
    assert sum(p.numel() for p in net.priors.parameters()) == 0


def test_the_average_of_weights_leaves_the_orders_alone():
    """A permutation is a buffer of integers, which an average would corrupt."""
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    model = flow("random")
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=False)
    for _ in range(3):
        ema.update_parameters(model)
    for a, b in zip(ema.module.net.orders, model.net.orders, strict=True):
        assert torch.equal(a.perm, b.perm)


# ----------------------------------------------------------------------------- training
class Steps(torch.nn.Module):
    """What training_step asks of a trainer."""

    global_rank, world_size, log_every_n_steps = 0, 1, 10**9

    def __init__(self, model):
        super().__init__()
        self.optimizers = [model.configure_optimizers()]
        self.global_step = 0


def train(model, x, steps):
    model._trainer = trainer = Steps(model)
    model.train()
    losses = []
    for step in range(steps):
        trainer.global_step = step
        optimizer = trainer.optimizers[0]
        loss = model.training_step(x, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.fixture
def lone(monkeypatch):
    """EIWFlow with a trainer of our own."""
    monkeypatch.setattr(EIWFlow, "trainer", property(lambda self: self._trainer))
    monkeypatch.setattr(EIWFlow, "global_step", property(lambda self: self._trainer.global_step))
    monkeypatch.setattr(EIWFlow, "log", lambda *a, **k: None)


@pytest.mark.usefixtures("lone")
class TestTraining:
    def test_the_objective_is_bits_plus_lambda_kl(self):
        model, x = flow("eiw", lam=0.25, seed=3), integers(8)
        model._trainer = Steps(model)
        twin = copy.deepcopy(model)
        loss = model.training_step(x, 0)
        log_prob, kl = twin.terms(x, Noise(step_generator(3, "train", 0)))
        assert len(kl) == 2
        torch.testing.assert_close(
            loss, bits_per_dim(log_prob.mean(), 64) + 0.25 * (kl[0] + kl[1])
        )

    def test_it_learns(self):
        x = integers(64) // 4
        losses = train(flow("eiw", optimizer="adam", lr=1e-2), x, 40)
        assert sum(losses[-5:]) / 5 < losses[0] - 0.05

    @pytest.mark.parametrize(("after", "moves"), [(0, False), (3, True), (None, True)])
    def test_orders_freeze(self, after, moves):
        model = flow("oracle_entropy", freeze_order_after=after)
        train(model, integers(16), 3)
        before = [o.perm.clone() for o in model.net.orders]
        assert moves == any(not torch.equal(o.perm, o.initial) for o in model.net.orders)
        train_more = integers(16, seed=9).flip(2) // 3
        model._trainer.global_step = 10
        model.training_step(train_more, 0)
        if after is not None:
            for perm, one in zip(before, model.net.orders, strict=True):
                assert torch.equal(perm, one.perm)

    def test_learning_rate_is_a_function_of_the_update(self):
        model = flow(lr=1.0, warmup=4, decay=0.5, decay_every=2, fine_tune_after=9)
        model._trainer = Steps(model)
        rates = []
        for step in range(11):
            model._set_learning_rate(step)
            rates.append(model._trainer.optimizers[0].param_groups[0]["lr"])
        assert rates == [0.25, 0.5, 0.75, 1, 1, 1, 0.5, 0.5, 0.25, 2e-5, 2e-5]

    def test_unknown_optimizer(self):
        with pytest.raises(ValueError, match="choose adamax, adam, sgd"):
            flow(optimizer="lion")
