"""A VAE and a flow on its latents, trained together by one loss (arXiv 2512.04084)."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from lightning_modules.callbacks import EMA
from lightning_modules.distributed import moments
from lightning_modules.flows import Noise
from lightning_modules.randomness import step_generator
from lightning_modules.simflow.alignment import Alignment
from lightning_modules.simflow.flow import Encoded, TokenFlow
from lightning_modules.simflow.guidance import Guidance
from lightning_modules.simflow.losses import (
    LPIPS,
    PatchDiscriminator,
    hinge_discriminator,
    hinge_generator,
    reconstruction,
)
from lightning_modules.simflow.objective import Terms, psnr, stages
from lightning_modules.simflow.sampling import Drawn, Sampler, sample
from lightning_modules.simflow.tokens import to_map, to_tokens

import lightning as L
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["SimFlow"]

Images = Float[Tensor, "batch C H W"]
Latents = Float[Tensor, "batch c h w"]
Labels = Int[Tensor, " batch"]
PerSample = Float[Tensor, " batch"]


class SimFlow(L.LightningModule):
    """``L = reconstruction(D(x), i) + lambda_nf NLL(x | y)``, ``x = mu(i) + sigma_bar eps``.

    (Section 3.) All variants of section 5.3 are settings of this module: what is trained in the
    second stage, and which variance and noise the flow sees.

    Args:
        vae: encoder and decoder; its posterior is learnable or of fixed variance. ``Pixels`` in
            its place makes this TarFlow.
        flow: of latents of the VAE's shape.
        lambda_nf: weight of the NLL per dimension. One nat costs ``lambda_nf / N``: what is right
            for the 16384 dimensions of the paper (1.0) is far too much for 64.
        pretrain: updates of a first stage, in which the VAE is trained without the flow; what it
            leaves are its averages, where weights are averaged.
        train_encoder, train_decoder, train_flow: what the second stage trains.
        extra_noise: standard deviation of noise added to the latents that flow and decoder see in
            the second stage; in units of their own where they are standardised.
        standardise: the flow sees latents less the mean, over the standard deviation, of each
            channel in the second stage's first batch: for encoders that nothing else holds.
        stop_gradient: the NLL does not reach the encoder.
        entropy_term: the loss has ``- lambda_nf H(q) / N``; constant where the variance is fixed.
        perceptual: LPIPS, and ``perceptual_weight`` its weight.
        discriminator: of patches; it is trained from ``discriminator_after`` on, and judges with
            ``adversarial_weight``. With one the module has two optimizers.
        kl_weight: of the KL divergence summed over dimensions (REPA-E: 1e-6).
        alignment: of hidden states after a block and layer, ``align_at``, with
            ``alignment_weight``.
        size_weight: of what passes between blocks (STARFlow: 1e-4).
        label_drop: share of labels that are dropped.
        lr, betas, weight_decay: of AdamW; a discriminator has betas (0.9, 0.999) and no decay.
        clip: greatest norm of all gradients together.
        seed: of the noise; batches are the DataModule's.

    Raises:
        ValueError: a flow that does not fit the VAE's latents, or nothing to train.
    """

    def __init__(
        self,
        vae: nn.Module,
        flow: TokenFlow,
        lambda_nf: float = 1.0,
        pretrain: int = 0,
        train_encoder: bool = True,
        train_decoder: bool = True,
        train_flow: bool = True,
        extra_noise: float = 0.0,
        standardise: bool = False,
        stop_gradient: bool = False,
        entropy_term: bool = False,
        perceptual: LPIPS | None = None,
        perceptual_weight: float = 1.0,
        discriminator: PatchDiscriminator | None = None,
        discriminator_after: int = 0,
        adversarial_weight: float = 0.1,
        kl_weight: float = 1e-6,
        alignment: Alignment | None = None,
        alignment_weight: float = 0.5,
        align_at: tuple[int, int] = (-1, 8),
        size_weight: float = 0.0,
        label_drop: float = 0.1,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 1e-4,
        clip: float | None = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if vae.latent_channels != flow.shape.channels:
            raise ValueError(
                f"latents have {vae.latent_channels} channels, the flow's tokens "
                f"{flow.shape.channels}: set channels of the flow"
            )
        if not (train_encoder or train_decoder or train_flow or pretrain):
            raise ValueError("nothing is trained: set train_flow or another part")
        self.save_hyperparameters(
            ignore=("vae", "flow", "perceptual", "discriminator", "alignment")
        )
        self.vae, self.flow, self.perceptual = vae, flow, perceptual
        self.discriminator, self.alignment = discriminator, alignment
        h = self.hparams
        h.align_at = (align_at[0] % len(flow.blocks), align_at[1])
        # of the latents, where they are standardised
        self.register_buffer("shift", torch.zeros(1, vae.latent_channels, 1, 1))
        self.register_buffer("spread", torch.ones(1, vae.latent_channels, 1, 1))
        self.register_buffer("measured", torch.tensor(False))
        self.automatic_optimization = discriminator is None
        if discriminator is not None:
            discriminator.requires_grad_(False)  # but in its own update
        self._stage: bool | None = None

    # ---------------------------------------------------------------------- latents and flow
    @property
    def dims(self) -> int:
        """Latent dimensions, N = T C."""
        return self.flow.dims

    def tokens(self, latents: Latents) -> Float[Tensor, "batch T c"]:
        return to_tokens((latents - self.shift) / self.spread)

    def latents(self, tokens: Float[Tensor, "batch T c"]) -> Latents:
        """The inverse of ``tokens``."""
        return to_map(tokens, self.flow.shape.grid) * self.spread + self.shift

    def encoded(self, latents: Latents, y: Labels | None = None, **options: Any) -> Encoded:
        """What the flow makes of latents; its log-density is of the latents as they are, nats."""
        encoded = self.flow(self.tokens(latents), y, **options)
        change = self.flow.shape.tokens * self.spread.log().sum()
        encoded.log_prob = encoded.log_prob - change
        return encoded

    def noisy(self, images: Images, noise: Noise) -> Latents:
        """The latents that flow and decoder see in the second stage."""
        return self._disturbed(self.vae.encode(images).sample(noise), noise)

    def _disturbed(self, latents: Latents, noise: Noise) -> Latents:
        if not self.hparams.extra_noise:
            return latents
        std = self.hparams.extra_noise * self.spread
        return latents + std * noise.normal(latents.shape, latents)

    def reconstruct(
        self, images: Images, level: float = 0.0, noise: Noise | None = None
    ) -> Images:
        """Decoded means, with noise of standard deviation ``level`` added to them."""
        mean = self.vae.encode(images).mean
        if level:
            mean = mean + level * (noise or Noise()).normal(mean.shape, mean)
        return self.vae.decode(mean)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        noise: Noise,
        y: Labels | None = None,
        sampler: Sampler | None = None,
        guidance: Guidance | None = None,
        temperature: float = 1.0,
    ) -> tuple[Images, Drawn]:
        """Images, decoded directly from the flow's latents, and what these took."""
        like = self.shift
        drawn = sample(
            self.flow, lambda shape: noise.normal(shape, like), n, y, sampler, guidance,
            temperature,
        )  # fmt: skip
        return self.vae.decode(self.latents(drawn.x)), drawn

    # ------------------------------------------------------------------------------ objective
    def first_stage(self, step: int) -> bool:
        return step < self.hparams.pretrain

    def terms(self, images: Images, y: Labels, noise: Noise, step: int) -> tuple[Terms, Images]:
        """The loss's parts at an update, and the reconstructions."""
        h, first = self.hparams, self.first_stage(step)
        zero = images.new_zeros(())
        found = dict.fromkeys((f.name for f in fields(Terms)), zero)
        with torch.set_grad_enabled(first or h.train_encoder):
            posterior = self.vae.encode(images)
            latents = posterior.sample(noise)
            if not first:
                self._measure(latents)
                latents = self._disturbed(latents, noise)
        decoded = images
        if first or h.train_encoder or h.train_decoder:
            decoded = self.vae.decode(latents)
            found["reconstruction"] = reconstruction(decoded, images)
            found["kl"] = h.kl_weight * posterior.kl().mean()
            if self.perceptual is not None:
                found["perceptual"] = h.perceptual_weight * self.perceptual(decoded, images).mean()
            if self._judged(step):
                verdict = hinge_generator(self.discriminator(decoded))
                found["adversarial"] = h.adversarial_weight * verdict
        if not first and (h.train_flow or h.train_encoder):
            found |= self._flow_terms(images, latents, self._dropped(y, noise, images))
            if h.entropy_term:
                found["entropy"] = -h.lambda_nf * posterior.entropy().mean() / self.dims
        return Terms(**found), decoded

    def _flow_terms(self, images: Images, latents: Latents, y: Labels) -> dict[str, Tensor]:
        h, found = self.hparams, {}
        trace: list[Tensor] | None = [] if h.size_weight else None
        tap = h.align_at if self.alignment is not None else None
        seen = latents.detach() if h.stop_gradient else latents
        encoded = self.encoded(seen, y, tap=tap, trace=trace)
        found["nll"] = -h.lambda_nf * encoded.log_prob.mean() / self.dims
        if tap:
            found["alignment"] = h.alignment_weight * self.alignment(encoded.hidden, images)
        if trace:
            found["size"] = h.size_weight * sum(x.square().mean() for x in trace[1:-1])
        if self.training:
            self.flow.follow(encoded.z)
        return found

    def _dropped(self, y: Labels, noise: Noise, like: Tensor) -> Labels:
        drop = noise.uniform(y.shape, like) < self.hparams.label_drop
        return torch.where(drop, -1, y)

    def _judged(self, step: int) -> bool:
        return self.discriminator is not None and step >= self.hparams.discriminator_after

    @torch.no_grad()
    def _measure(self, latents: Latents) -> None:
        """Moments of each channel, where they are wanted and not known yet."""
        if self.hparams.standardise and self.training and not self.measured:
            mean, variance = moments(latents, (0, 2, 3))
            self.shift.copy_(mean)
            self.spread.copy_(variance.sqrt())
            self.measured.fill_(True)

    # ------------------------------------------------------------------------------- training
    def on_fit_start(self) -> None:
        if isinstance(self.perceptual, LPIPS):
            self.perceptual.load()  # files that are missing are missed now

    def _noise(self, stream: str, step: int) -> Noise:
        seed = self.hparams.seed if stream == "train" else 0
        rng = step_generator(seed, stream, step, self.device)
        return Noise(rng, rank=self.trainer.global_rank, world=self.trainer.world_size)

    def training_step(self, batch: tuple[Images, Labels], batch_idx: int) -> Tensor:
        images, y = batch
        step = self.global_step
        self._set_trained(self.first_stage(step))
        terms, decoded = self.terms(images, y, self._noise("train", step), step)
        if (step + 1) % self.trainer.log_every_n_steps == 0:
            self.log("train/loss", terms.total, prog_bar=True, sync_dist=True)
            parts = {f"train/{f.name}": getattr(terms, f.name) for f in fields(terms)}
            self.log_dict(parts, sync_dist=True)
        if not self.automatic_optimization:
            self._two_steps(terms.total, images, decoded.detach(), step)
            return terms.total.detach()
        return terms.total

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # a VAE that stays as it is must be the one that is measured, and that the flow sees
        if 0 < self.hparams.pretrain == self.global_step:
            for average in (c for c in self.trainer.callbacks if isinstance(c, EMA)):
                kept = {k: v for k, v in average.averaged().items() if k.startswith("vae.")}
                self.load_state_dict(kept, strict=False)

    def stages(self) -> Iterator[int | None]:
        """Updates of each stage, None for the rest; meanwhile an update is as most are in it."""
        return stages(self.hparams)

    def _set_trained(self, first: bool) -> None:
        """Which parts have gradients in this stage; the others get none, rather than zeros."""
        if self._stage == first:
            return
        h, self._stage = self.hparams, first
        for name, on in (
            ("vae.encoder", first or h.train_encoder),
            ("vae.decoder", first or h.train_decoder),
            ("flow", not first and h.train_flow),
            ("alignment", not first and h.train_flow),
        ):
            part = dict(self.named_modules()).get(name)
            if part is not None:
                part.requires_grad_(on)

    def _two_steps(self, loss: Tensor, images: Images, decoded: Images, step: int) -> None:
        """The generator's update, then the discriminator's on what the generator had made."""
        ours, theirs = self.optimizers()
        ours.zero_grad()
        self.manual_backward(loss)
        ours.step()
        if not self._judged(step):
            return
        self.discriminator.requires_grad_(True)
        judged = hinge_discriminator(self.discriminator(images), self.discriminator(decoded))
        theirs.zero_grad()
        self.manual_backward(judged)
        theirs.optimizer.step()  # the plain one: an update is counted once
        self.discriminator.requires_grad_(False)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.hparams.clip is not None:
            weights = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(weights, self.hparams.clip)

    def configure_optimizers(self) -> Any:
        h = self.hparams
        parts = [part for part in (self.vae, self.flow, self.alignment) if part is not None]
        weights = [p for part in parts for p in part.parameters()]
        ours = torch.optim.AdamW(
            weights, lr=h.lr, betas=tuple(h.betas), weight_decay=h.weight_decay, fused=True
        )
        if self.discriminator is None:
            return ours
        theirs = self.discriminator.parameters()
        return ours, torch.optim.AdamW(theirs, lr=h.lr, betas=(0.9, 0.999), weight_decay=0.0)

    # ----------------------------------------------------------------------------- evaluation
    def validation_step(self, batch: tuple[Images, Labels], batch_idx: int) -> None:
        images, y = batch
        # the same noise at every validation and in every arm
        log_prob = self.encoded(self.noisy(images, self._noise("val", batch_idx)), y).log_prob
        error = (self.reconstruct(images).clamp(-1, 1) - images).square().mean((1, 2, 3))
        found = {"val/nll": -log_prob.mean() / self.dims, "val/psnr": psnr(error).mean()}
        self.log_dict(found, batch_size=len(images), sync_dist=True)

    def test_step(self, batch: tuple[Images, Labels], batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch: tuple[Images, Labels], batch_idx: int) -> PerSample:
        """``log p(x | y)`` of one draw of each image's latents, nats."""
        images, y = batch
        return self.encoded(self.noisy(images, self._noise("predict", batch_idx)), y).log_prob
