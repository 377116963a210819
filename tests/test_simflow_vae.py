"""SimFlow's VAE: its size, each of its parts by hand, and the posterior's closed forms."""

import math

from lightning_modules.flows import Noise
from lightning_modules.simflow.vae import VAE, Posterior

import pytest
import torch
from jacobians import images
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F
from unets import build, scrambled, trainable

TINY = {"in_channels": 1, "width": 8, "multipliers": (1, 2), "blocks": 1, "latent_channels": 3}


# ------------------------------------------------------------------------------------------- size
def conv(fan_in, out, side=3):
    return fan_in * out * side * side + out


def res(fan_in, out):
    norms = 2 * fan_in + 2 * out
    shortcut = conv(fan_in, out, 1) if fan_in != out else 0
    return norms + conv(fan_in, out) + conv(out, out) + shortcut


def attention(c):
    return 2 * c + 4 * conv(c, c, 1)


class TestSize:
    def test_at_the_papers(self):
        middle = 2 * res(512, 512) + attention(512)
        encoder = (
            conv(3, 128)
            + 2 * res(128, 128)  # 256 x 256
            + conv(128, 128)
            + 2 * res(128, 128)
            + conv(128, 128)
            + (res(128, 256) + res(256, 256))
            + conv(256, 256)
            + 2 * res(256, 256)
            + conv(256, 256)
            + (res(256, 512) + res(512, 512) + 2 * attention(512))  # 16 x 16
            + middle
            + (2 * 512 + conv(512, 128))
        )
        decoder = (
            conv(64, 64, 1)
            + conv(64, 512)
            + middle
            + (3 * res(512, 512) + 3 * attention(512) + conv(512, 512))  # 16 x 16
            + (res(512, 256) + 2 * res(256, 256) + conv(256, 256))
            + (3 * res(256, 256) + conv(256, 256))
            + (res(256, 128) + 2 * res(128, 128) + conv(128, 128))
            + 3 * res(128, 128)  # 256 x 256
            + (2 * 128 + conv(128, 3))
        )
        with torch.device("meta"):
            fixed, learnable = VAE(), VAE(posterior="learnable")
        assert trainable(fixed.encoder) == encoder + conv(128, 64, 1)
        assert trainable(fixed.decoder) == trainable(learnable.decoder) == decoder
        assert trainable(fixed) == 70_285_699
        # what gives a log-variance, and nothing else
        assert trainable(learnable) - trainable(fixed) == conv(128, 64, 1)

    def test_of_a_published_autoencoder(self):
        """The one of Stable Diffusion 1: f8d4, no attention but in the middle."""
        with torch.device("meta"):
            options = {"multipliers": (1, 2, 4, 4), "latent_channels": 4, "attention_at": ()}
            vae = VAE(posterior="learnable", **options)
        assert trainable(vae) == 83_653_863

    def test_on_the_meta_device(self):
        with torch.device("meta"):
            vae = VAE()
            posterior = vae.encode(torch.empty(2, 3, 256, 256))
            decoded = vae.decode(posterior.sample(Noise()))
        assert posterior.mean.shape == posterior.std.shape == (2, 64, 16, 16)
        assert decoded.shape == (2, 3, 256, 256)
        assert decoded.is_meta
        assert posterior.kl().is_meta

    def test_groups_of_narrow_and_wide_levels(self):
        vae = VAE(width=16, multipliers=(1, 2, 4), latent_channels=3)
        groups = {
            (m.num_channels, m.num_groups, m.eps)
            for m in vae.modules()
            if isinstance(m, torch.nn.GroupNorm)
        }
        assert groups == {(16, 16, 1e-6), (32, 32, 1e-6), (64, 32, 1e-6)}


# ---------------------------------------------------------------------------------------- by hand
def by_hand(vae, x, z, layout):
    """Moments of x and the decoded z of a scrambled VAE, from weights in their order alone.

    ``layout`` is the widths from fine to coarse and the residual blocks of an encoder's level;
    attention stands at the coarsest level.
    """
    widths, blocks = layout
    weights = iter(vae.state_dict().values())

    def norm(v):
        c = v.shape[1]
        g = v.unflatten(1, (min(32, c), -1))
        mean = g.mean((2, 3, 4), keepdim=True)
        variance = (g - mean).square().mean((2, 3, 4), keepdim=True)
        g = ((g - mean) / (variance + 1e-6).sqrt()).flatten(1, 2)
        return g * next(weights)[:, None, None] + next(weights)[:, None, None]

    def convolve(v, stride=1, padding=(1, 1, 1, 1)):
        kernel, bias = next(weights), next(weights)
        if kernel.shape[-1] == 1:
            padding = (0, 0, 0, 0)
        return F.conv2d(F.pad(v, padding), kernel, bias, stride)

    def silu(v):
        return v / (1 + torch.exp(-v))

    def res(v, out):
        h = convolve(silu(norm(v)))
        h = convolve(silu(norm(h)))
        assert h.shape[1] == out
        return h + (convolve(v) if v.shape[1] != out else v)

    def attend(v):
        h, c = norm(v), v.shape[1]

        def mixed(t):
            kernel, bias = next(weights), next(weights)
            return torch.einsum("bchw,oc->bohw", t, kernel) + bias[:, None, None]

        q, k, a = mixed(h).split(c, 1)
        score = torch.einsum("bchw,bcij->bhwij", q, k) / math.sqrt(c)
        score = score.flatten(3).softmax(-1).view_as(score)
        return v + mixed(torch.einsum("bhwij,bcij->bchw", score, a))

    def level(v, k, blocks):
        for _ in range(blocks):
            v = res(v, widths[k])
            v = attend(v) if k == len(widths) - 1 else v
        return v

    h = convolve(x)
    for k in range(len(widths)):
        if k:
            h = convolve(h, stride=2, padding=(0, 1, 0, 1))  # right and below
        h = level(h, k, blocks)
    h = res(attend(res(h, widths[-1])), widths[-1])
    moments = convolve(convolve(silu(norm(h))))

    h = convolve(convolve(z))
    h = res(attend(res(h, widths[-1])), widths[-1])
    for k in reversed(range(len(widths))):
        h = level(h, k, blocks + 1)
        if k:
            h = convolve(h.repeat_interleave(2, 2).repeat_interleave(2, 3))
    decoded = convolve(silu(norm(h)))
    assert next(weights, None) is None
    return moments, decoded


@pytest.mark.parametrize("posterior", ["learnable", "fixed"])
def test_the_network_by_hand(posterior):
    options = {"width": 16, "multipliers": (1, 2, 4), "blocks": 2, "latent_channels": 3}
    vae = scrambled(build(VAE, posterior=posterior, **options).double())
    x, z = images(2, 3, 8, 12), images(2, 3, 2, 3, seed=1)
    moments, decoded = by_hand(vae, x, z, ((16, 32, 64), 2))
    got = vae.encode(x)
    mean, log_var = moments.chunk(2, 1) if posterior == "learnable" else (moments, None)
    torch.testing.assert_close(got.mean, mean, rtol=1e-9, atol=1e-9)
    if log_var is not None:
        torch.testing.assert_close(got.log_var, log_var, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(got.std.square(), log_var.exp(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(vae.decode(z), decoded, rtol=1e-9, atol=1e-9)


def test_channels_last_changes_nothing():
    vae = build(VAE, **TINY).double()
    x, z = images(2, 1, 8, 8), images(2, 3, 4, 4)
    before = vae.encode(x).mean, vae.decode(z)
    vae.to(memory_format=torch.channels_last)
    x, z = (v.contiguous(memory_format=torch.channels_last) for v in (x, z))
    torch.testing.assert_close((vae.encode(x).mean, vae.decode(z)), before, rtol=0, atol=1e-12)


def test_types_under_autocast():
    vae, x = build(VAE, **TINY), images(2, 1, 8, 8).float()
    exact = vae.encode(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = vae.encode(x)
        decoded = vae.decode(rough.mean)
    assert {v.dtype for v in (rough.mean, rough.std, rough.log_var, decoded)} == {torch.float32}
    assert 0 < (rough.mean - exact.mean).abs().max() < 0.1


@pytest.mark.parametrize("posterior", ["learnable", "fixed"])
def test_every_weight_learns_from_one_elbo(posterior):
    vae = scrambled(build(VAE, posterior=posterior, **TINY))
    x = images(4, 1, 8, 8).float()
    q = vae.encode(x)
    (vae.decode(q.sample(Noise())).sub(x).abs().mean() + 1e-2 * q.kl().mean()).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in vae.parameters())


# -------------------------------------------------------------------------------------- posterior
class TestPosterior:
    def test_closed_forms(self):
        mean, log_var = images(5, 3, 2, 4), images(5, 3, 2, 4, seed=1)
        q = Posterior(mean, (0.5 * log_var).exp(), log_var)
        normal = Normal(q.mean, q.std)
        kl = kl_divergence(normal, Normal(0.0, 1.0)).flatten(1).sum(1)
        torch.testing.assert_close(q.kl(), kl, rtol=1e-12, atol=0)
        torch.testing.assert_close(q.entropy(), normal.entropy().flatten(1).sum(1))

    def test_samples(self):
        mean, eps, log_std = (images(5, 3, 2, 4, seed=k) for k in range(3))
        q, std = Posterior(mean, log_std.exp(), 2 * log_std), log_std.exp()
        torch.testing.assert_close(q.sample(eps), mean + std * eps)
        assert torch.equal(q.sample(Noise(given=[eps])), q.sample(eps))
        rngs = [torch.Generator().manual_seed(7) for _ in range(2)]
        drawn = torch.randn(mean.shape, generator=rngs[0], dtype=torch.double)
        assert torch.equal(q.sample(Noise(rngs[1])), q.sample(drawn))


class TestFixed:
    @pytest.mark.parametrize("std", [0.5, 0.75, 1.25, 0.1])
    def test_its_variance(self, std):
        vae = build(VAE, posterior="fixed", fixed_std=std, **TINY)
        q = vae.encode(images(4, 1, 8, 8).float())
        assert q.mean.shape == q.std.shape == q.log_var.shape == (4, 3, 4, 4)
        assert (q.std == std).all()
        assert (q.log_var == 2 * math.log(std)).all()
        eps = images(4, 3, 4, 4, seed=1).float()
        torch.testing.assert_close(q.sample(eps), q.mean + std * eps)

    def test_entropy_is_a_constant(self):
        vae = build(VAE, posterior="fixed", **TINY)
        q = vae.encode(images(4, 1, 8, 8).float())
        n = 3 * 4 * 4
        # 0.7258 nats a dimension (section 3.1)
        torch.testing.assert_close(q.entropy(), torch.full((4,), 0.7258 * n), atol=1e-2, rtol=0)
        exact = 0.5 * n * math.log(2 * math.pi * math.e * 0.25)
        torch.testing.assert_close(q.entropy(), torch.full((4,), exact))
        assert q.mean.requires_grad
        assert not q.std.requires_grad
        assert not q.entropy().requires_grad

    def test_kl_is_a_penalty_on_the_mean(self):
        vae = build(VAE, posterior="fixed", fixed_std=0.3, **TINY).double()
        q = vae.encode(images(4, 1, 8, 8))
        n, squares = 3 * 4 * 4, q.mean.square().flatten(1).sum(1)
        closed = 0.5 * (squares + n * (0.09 - 1 - math.log(0.09)))
        torch.testing.assert_close(q.kl(), closed, rtol=1e-12, atol=0)
        (gradient,) = torch.autograd.grad(q.kl().sum(), q.mean)
        torch.testing.assert_close(gradient, q.mean)

    def test_no_parameter_for_it(self):
        """Each output of the encoder's last layer is a mean."""
        vae = build(VAE, posterior="fixed", **TINY)
        assert vae.encoder[-1].weight.shape == (3, 6, 1, 1)
        assert vae.encoder[-2].weight.shape[0] == 6  # as in the learnable one
        assert not list(vae.buffers())
        q = vae.encode(images(4, 1, 8, 8).float())
        (gradient,) = torch.autograd.grad(q.mean.sum(), vae.encoder[-1].bias)
        assert (gradient == 4 * 16).all()


class TestLearnable:
    def test_log_variance_is_clamped(self):
        vae = build(VAE, posterior="learnable", **TINY)
        with torch.no_grad():
            vae.encoder[-1].bias[3:] = torch.tensor([-1e3, 1e3, 2.0])
            vae.encoder[-1].weight[3:] = 0
        q = vae.encode(images(4, 1, 8, 8).float())
        assert (q.log_var == torch.tensor([-30.0, 20.0, 2.0])[:, None, None]).all()
        std = torch.tensor([-15.0, 10.0, 1.0]).exp()
        torch.testing.assert_close(q.std[0, :, 0, 0], std)

    def test_entropy_reaches_the_encoder(self):
        vae = build(VAE, posterior="learnable", **TINY)
        q = vae.encode(images(4, 1, 8, 8).float())
        (gradient,) = torch.autograd.grad(q.entropy().sum(), vae.encoder[-1].bias)
        assert torch.equal(gradient, torch.tensor([0, 0, 0, 32.0, 32.0, 32.0]))


class TestEncoderNorm:
    @pytest.mark.parametrize("posterior", ["learnable", "fixed"])
    def test_every_token_by_hand(self, posterior):
        options = TINY | {"latent_channels": 5, "posterior": posterior}
        free = scrambled(build(VAE, **options).double())
        normed = build(VAE, encoder_norm=True, **options).double()
        normed.load_state_dict(free.state_dict())  # no parameters of its own
        x = images(2, 1, 8, 8)
        was, now = free.encode(x), normed.encode(x)
        centred = was.mean - was.mean.mean(1, keepdim=True)
        by_hand = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        torch.testing.assert_close(now.mean, by_hand, rtol=1e-9, atol=1e-9)
        assert torch.equal(now.log_var, was.log_var)


# --------------------------------------------------------------------------------- what is refused
def test_shapes_are_told_before_anything_is_encoded():
    vae = build(VAE, **TINY)
    assert vae.downsampling == 2
    assert vae.latent_shape((1, 8, 12)) == (3, 4, 6)
    assert vae.encode(torch.zeros(2, 1, 8, 12)).mean.shape == (2, 3, 4, 6)
    assert vae.decode(torch.zeros(2, 3, 4, 6)).shape == (2, 1, 8, 12)


@pytest.mark.parametrize(
    ("shape", "line"),
    [
        ((2, 1, 8, 9), "8 x 9 pixels cannot be divided by 2: pad the images"),
        ((2, 3, 8, 8), "images of 1 channels, not 3: set in_channels"),
        ((2, 1, 2, 2), "2 x 2 pixels leave one number a group to normalise: give larger"),
    ],
)
def test_images_that_do_not_fit(shape, line):
    with pytest.raises(ValueError, match=line):
        build(VAE, **TINY).encode(torch.zeros(shape))


def test_latents_that_do_not_fit():
    with pytest.raises(ValueError, match="latents of 3 channels, not 4: set latent_channels"):
        build(VAE, **TINY).decode(torch.zeros(2, 4, 4, 4))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"posterior": "constant"}, "unknown posterior 'constant': choose learnable or fixed"),
        ({"width": 48}, "48 channels cannot be normalised in 32 groups: give a width of 32"),
        ({"attention_at": (2,)}, "attention_at 2: the levels are 0 to 1"),
        ({"attention_at": (-3,)}, "attention_at -3: the levels are 0 to 1"),
        ({"fixed_std": 0.0}, "fixed_std is 0.0: give a positive standard deviation"),
        ({"encoder_norm": True, "latent_channels": 1}, "nothing of one channel: give more"),
    ],
)
def test_sizes_that_do_not_fit(options, line):
    with pytest.raises(ValueError, match=line):
        VAE(**TINY | options)
