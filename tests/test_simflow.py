"""SimFlow's objective: its terms, its stages, and whom each variant's gradient reaches."""

import math

from lightning_modules.flows import Noise
from lightning_modules.simflow import (
    VAE,
    Alignment,
    PatchDiscriminator,
    Pixels,
    Sampler,
    SimFlow,
    TokenFlow,
)
from lightning_modules.simflow.objective import psnr

import pytest
import torch
from jacobians import images, shaken
from simflows import VARIANTS, batch, tiny

TRAINED = {  # encoder, decoder, flow in the second stage
    "frozen-vae/learnable": (False, False, True),
    "frozen-vae/fixed": (False, False, True),
    "frozen-vae/fixed+LN": (False, False, True),
    "frozen-enc/noise": (False, True, True),
    "e2e/noise": (True, True, True),
    "e2e/fixed": (True, True, True),
}


def gradients(module, loss):
    module.zero_grad()
    loss.backward()

    def norm(part):
        found = [p.grad.norm() for p in part.parameters() if p.grad is not None]
        return float(sum(found)) if found else None

    return [norm(part) for part in (module.vae.encoder, module.vae.decoder, module.flow)]


def noise(seed=0):
    return Noise(torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------- routing
@pytest.mark.parametrize("variant", VARIANTS)
class TestVariants:
    def test_the_second_stage_trains_what_it_should(self, variant):
        module = tiny(variant)
        module._set_trained(first=False)
        x, y = batch()
        terms, _ = module.terms(x, y, noise(), step=10)
        found = gradients(module, terms.total)
        for norm, trained in zip(found, TRAINED[variant], strict=True):
            assert (norm is not None and norm > 0) if trained else norm is None

    def test_the_nll_alone_reaches_the_encoder_end_to_end_only(self, variant):
        module = tiny(variant)
        module._set_trained(first=False)
        terms, _ = module.terms(*batch(), noise(), step=10)
        encoder, decoder, flow = gradients(module, terms.nll)
        assert (encoder is not None and encoder > 0) == TRAINED[variant][0]
        assert decoder is None
        assert flow > 0

    def test_the_first_stage_trains_the_vae_alone(self, variant):
        module = tiny(variant)
        if not module.hparams.pretrain:
            assert not module.first_stage(0)
            return
        module._set_trained(first=True)
        terms, _ = module.terms(*batch(), noise(), step=4)
        assert not terms.nll
        encoder, decoder, flow = gradients(module, terms.total)
        assert encoder > 0
        assert decoder > 0
        assert flow is None
        assert not module.measured

    def test_flow_and_decoder_see_the_same_noisy_latents(self, variant):
        module = tiny(variant)
        seen = []
        module.vae.decoder.register_forward_pre_hook(lambda _, a: seen.append(a[0]))
        module.flow.register_forward_pre_hook(lambda _, a: seen.append(module.latents(a[0])))
        module.terms(*batch(), noise(), step=10)
        assert len(seen) == 1 + any(TRAINED[variant][:2])
        torch.testing.assert_close(seen[0], seen[-1])
        x = batch()[0]
        posterior = module.vae.encode(x)
        rng = noise()
        expected = posterior.sample(rng)
        if module.hparams.extra_noise:
            expected = expected + 0.5 * rng.normal(expected.shape, expected)
        torch.testing.assert_close(seen[0], expected)


def test_a_stopped_gradient_leaves_the_loss_and_takes_it_from_the_encoder():
    joint, stopped = tiny(), tiny(stop_gradient=True)
    terms = [m.terms(*batch(), noise(), step=0)[0] for m in (joint, stopped)]
    assert terms[0].nll == terms[1].nll
    assert gradients(stopped, terms[1].nll)[0] is None
    assert gradients(joint, terms[0].nll)[0] > 0


def test_it_stands_in_each_stage_in_turn_and_is_what_it_was():
    judge = PatchDiscriminator(1, 4, layers=1)
    module = tiny("frozen-vae/fixed", discriminator=judge, discriminator_after=9)
    kept = dict(module.hparams)
    assert kept["standardise"]
    assert not module._judged(0)
    found = [
        (n, module.first_stage(0), module._judged(0), module.hparams.standardise)
        for n in module.stages()
    ]
    first = kept["pretrain"]
    assert found == [(first, True, True, False), (None, False, True, False)]
    assert dict(module.hparams) == kept
    assert list(tiny().stages()) == [None]


def test_a_stage_is_set_once_and_again_when_it_changes():
    module = tiny("frozen-vae/fixed")
    trained = []
    for first in (True, True, False):
        module._set_trained(first)
        trained.append(next(module.vae.parameters()).requires_grad)
    assert trained == [True, True, False]
    assert all(p.requires_grad for p in module.flow.parameters())


# --------------------------------------------------------------------------------------- terms
class TestTerms:
    def test_by_value(self):
        module = tiny(lambda_nf=0.3, kl_weight=0.01, label_drop=0.0)
        x, y = batch()
        terms, decoded = module.terms(x, y, noise(), step=0)
        posterior = module.vae.encode(x)
        latents = posterior.sample(noise())
        torch.testing.assert_close(decoded, module.vae.decode(latents))
        torch.testing.assert_close(terms.reconstruction, (decoded - x).abs().mean())
        torch.testing.assert_close(terms.kl, 0.01 * posterior.kl().mean())
        tokens = latents.flatten(2).mT
        nll = -0.3 * module.flow.log_prob(tokens, y).mean() / 32
        torch.testing.assert_close(terms.nll, nll)
        total = terms.reconstruction + terms.kl + terms.nll
        torch.testing.assert_close(terms.total, total)

    def test_the_entropy_of_a_fixed_variance_has_no_gradient(self):
        plain, with_it = tiny(), tiny(entropy_term=True)
        term = with_it.terms(*batch(), noise(), step=0)[0].entropy
        expected = -0.1 * 0.5 * math.log(2 * math.pi * math.e * 0.25)
        assert term.item() == pytest.approx(expected)
        assert not term.requires_grad
        assert not plain.terms(*batch(), noise(), step=0)[0].entropy

    def test_that_of_a_learnable_one_has(self):
        module = tiny("e2e/noise", entropy_term=True, extra_noise=0.0)
        term = module.terms(*batch(), noise(), step=0)[0].entropy
        posterior = module.vae.encode(batch()[0])
        torch.testing.assert_close(term, -0.1 * posterior.entropy().mean() / 32)
        assert gradients(module, term)[0] > 0

    def test_labels_are_dropped_at_their_rate(self):
        module, y = tiny(label_drop=0.25), torch.zeros(20_000, dtype=torch.long)
        dropped = module._dropped(y, noise(), torch.zeros(1))
        assert set(dropped.tolist()) == {-1, 0}
        assert (dropped < 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
        assert not (tiny(label_drop=0.0)._dropped(y, noise(), torch.zeros(1)) < 0).any()

    def test_what_passes_between_blocks_can_be_charged(self):
        module = tiny(size_weight=2.0, label_drop=0.0)
        x, y = batch()
        terms, _ = module.terms(x, y, noise(), step=0)
        tokens = module.tokens(module.vae.encode(x).sample(noise()))
        passed = module.flow.blocks[0](tokens, y)[0]
        torch.testing.assert_close(terms.size, 2 * passed.square().mean())

    def test_alignment_reaches_the_encoder(self):
        alignment = Alignment(16, grid=4, hidden=8, teacher_width=5)
        module = tiny(alignment=alignment, align_at=(-1, 0), alignment_weight=2.0, label_drop=0.0)
        x, y = batch()
        terms, _ = module.terms(x, y, noise(), step=0)
        tokens = module.tokens(module.vae.encode(x).sample(noise()))
        hidden = module.flow(tokens, y, tap=(1, 0)).hidden
        torch.testing.assert_close(terms.alignment, 2 * module.alignment(hidden, x))
        encoder, _, _ = gradients(module, terms.alignment)
        assert encoder > 0
        assert not any("teacher" in name for name in module.state_dict())

    def test_perceptual_distance_has_its_weight(self):
        class Far:
            def __call__(self, a, b):
                return (a - b).square().mean((1, 2, 3))

        module = tiny()
        module.perceptual = Far()
        module.hparams.perceptual_weight = 3.0
        terms, decoded = module.terms(*batch(), noise(), step=0)
        torch.testing.assert_close(terms.perceptual, 3 * (decoded - batch()[0]).square().mean())


def test_standardised_latents_have_moments_0_and_1_and_their_own_density():
    module = tiny("frozen-vae/fixed", label_drop=0.0)
    x, y = batch(64)
    module.terms(x, y, noise(), step=10)
    latents = module.vae.encode(x).sample(noise())
    tokens = module.tokens(latents)
    zero, one = torch.zeros(2).double(), torch.ones(2).double()
    torch.testing.assert_close(tokens.mean((0, 1)), zero)
    torch.testing.assert_close(tokens.var((0, 1), correction=0), one)
    torch.testing.assert_close(module.latents(tokens), latents)
    kept = module.spread.clone()
    module.terms(10 * x, y, noise(1), step=11)  # measured once
    assert torch.equal(module.spread, kept)
    # of the latents themselves: a density in the units of the latents
    density = module.flow.log_prob(tokens, y) - 16 * module.spread.log().sum()
    torch.testing.assert_close(module.encoded(latents, y).log_prob, density)


def test_added_noise_is_in_units_of_standardised_latents():
    module = tiny("frozen-enc/noise", standardise=True)
    x, y = batch(64)
    seen = []
    module.flow.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    module.terms(x, y, noise(), step=10)
    rng = noise()
    clean = module.tokens(module.vae.encode(x).sample(rng))
    added = rng.normal((64, 2, 4, 4), clean).flatten(2).mT
    torch.testing.assert_close(seen[0], clean + 0.5 * added)
    assert not torch.allclose(module.spread, torch.ones_like(module.spread))


def test_a_flow_that_does_not_fit_is_refused():
    flow = TokenFlow(3, (4, 4), width=16, layers=(1,), head_dim=8, classes=3)
    with pytest.raises(ValueError, match="latents have 2 channels, the flow's tokens 3"):
        SimFlow(VAE(1, 8, (1, 2), 1, 2), flow)
    with pytest.raises(ValueError, match="nothing is trained"):
        tiny(train_encoder=False, train_decoder=False, train_flow=False)


def test_samples_decode_latents_with_their_noise():
    module = tiny("frozen-vae/fixed").eval()
    module.shift.fill_(1.0)
    module.spread.fill_(2.0)
    y = torch.tensor([0, 1, 2])
    made, drawn = module.sample(3, noise(), y, Sampler("naive"))
    z = noise().normal((3, 16, 2), module.shift)
    latents = module.latents(drawn.x)
    torch.testing.assert_close(module.flow(module.tokens(latents), y).z, z)
    torch.testing.assert_close(made, module.vae.decode(latents))
    assert drawn.calls == [15, 15]


class TestPixels:
    def test_patches_are_their_own_latents(self):
        pixels, x = Pixels(3, 2, std=0.1), images(2, 3, 4, 6)
        posterior = pixels.encode(x)
        assert posterior.mean.shape == (2, *pixels.latent_shape((3, 4, 6))) == (2, 12, 2, 3)
        assert torch.equal(pixels.decode(posterior.mean), x)
        eps = images(2, 12, 2, 3, seed=1)
        torch.testing.assert_close(posterior.sample(eps), posterior.mean + 0.1 * eps)

    def test_levels_become_cells_that_touch(self):
        pixels = Pixels(1, 1)
        levels = torch.arange(256.0).reshape(1, 1, 16, 16) / 127.5 - 1
        for u in (0.0, 1.0):
            x = pixels.encode(levels).sample(torch.full_like(levels, u)).flatten()
            torch.testing.assert_close(x, (torch.arange(256) + u) / 128 - 1)

    def test_uniform_data_has_8_bits_under_the_uniform_density(self):
        dims = 12
        density = torch.full((1,), -dims * math.log(2.0))  # uniform over [-1, 1]^dims
        mass = Pixels(3, 2).log_mass(density, dims)
        assert float(-mass / (dims * math.log(2))) == pytest.approx(8.0)

    @pytest.mark.parametrize("shifts_alone", [False, True])
    def test_a_flow_on_pixels_is_trained_without_a_vae(self, shifts_alone):
        shape = {"width": 16, "layers": (1, 1), "head_dim": 8, "classes": 3}
        flow = TokenFlow(4, (4, 4), **shape, volume_preserving=shifts_alone)
        options = {"train_encoder": False, "train_decoder": False}
        module = shaken(SimFlow(Pixels(1, 2), flow, **options), 0.05).train()
        terms, _ = module.terms(*batch(), noise(), step=0)
        assert terms.total == terms.nll
        terms.total.backward()
        assert all(p.grad is not None for p in flow.blocks[-1].proj_out.parameters())
        assert (flow.var != 1).any() == shifts_alone


def test_psnr_of_a_known_error():
    assert psnr(torch.tensor([0.04])).item() == pytest.approx(20.0)
