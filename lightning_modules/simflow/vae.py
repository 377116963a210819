"""The VAE: from images to latents of learnable or fixed variance, and back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_modules.flows import Noise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["VAE", "Posterior"]

Images = Float[Tensor, "batch C H W"]
Latents = Float[Tensor, "batch c h w"]
PerSample = Float[Tensor, " batch"]

GROUPS, EPS = 32, 1e-6  # of every GroupNorm
LOG_VAR = (-30.0, 20.0)  # what a learnable log-variance is clamped to


@dataclass(frozen=True)
class Posterior:
    """The encoder's distribution over the latents of each image: independent normal numbers.

    Attributes:
        mean: mu.
        std: sigma.
        log_var: ``2 log sigma``; like ``std`` without a gradient where the variance is fixed.
    """

    mean: Latents
    std: Latents
    log_var: Latents

    def sample(self, noise: Noise | Latents) -> Latents:
        """``mu + sigma eps``, with the standard normal eps given, or one drawn from ``noise``."""
        eps = noise.normal(self.mean.shape, self.mean) if isinstance(noise, Noise) else noise
        return torch.addcmul(self.mean, self.std, eps)

    def kl(self) -> PerSample:
        """KL divergence from N(0, I), nats: a sum over each sample's dimensions."""
        terms = self.mean.square() + self.std.square() - 1 - self.log_var
        return 0.5 * terms.sum((1, 2, 3))

    def entropy(self) -> PerSample:
        """``1/2 log(2 pi e sigma^2)``, nats: a sum over each sample's dimensions."""
        return 0.5 * (self.log_var + math.log(2 * math.pi * math.e)).sum((1, 2, 3))


class VAE(nn.Module):
    """A convolutional VAE in the layout of latent diffusion's (section 4.1).

    The defaults are the paper's f16d64: images of 3 x 256 x 256 become latents of 64 x 16 x 16.
    Under autocast too, posteriors and images come in the type of what went in.

    Args:
        in_channels: of an image, whose values lie in [-1, 1].
        width: channels of the finest level, before its multiplier.
        multipliers: of the width, a level each from fine to coarse; sides are halved in between.
        blocks: residual blocks of a level of the encoder; the decoder's have one more.
        latent_channels: channels of the latents.
        attention_at: levels with self-attention after each residual block; 0 is the finest, -1
            the coarsest, which is the 16 x 16 one at the paper's size. The blocks between encoder
            and decoder have attention always.
        posterior: ``learnable``, the encoder gives the log-variance too, clamped to [-30, 20]; or
            ``fixed``, where nothing in the encoder stands for a variance.
        fixed_std: sigma_bar, the standard deviation of a fixed posterior.
        encoder_norm: mu has mean 0 and variance 1 over the channels of each token.

    Attributes:
        encoder, decoder: all parameters, ``quant_conv`` being the encoder's last layer and
            ``post_quant_conv`` the decoder's first.

    Raises:
        ValueError: an unknown posterior, a width that 32 groups do not divide, a level that does
            not exist, a standard deviation that is not positive, one channel to be normalised;
            (at a call) images or latents that do not fit.
    """

    def __init__(
        self,
        in_channels: int = 3,
        width: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        latent_channels: int = 64,
        attention_at: Sequence[int] = (-1,),
        posterior: str = "fixed",
        fixed_std: float = 0.5,
        encoder_norm: bool = False,
    ) -> None:
        super().__init__()
        levels = len(multipliers)
        widths = [width * m for m in multipliers]
        if posterior not in ("learnable", "fixed"):
            raise ValueError(f"unknown posterior {posterior!r}: choose learnable or fixed")
        if bad := [c for c in (width, *widths) if c > GROUPS and c % GROUPS]:
            raise ValueError(
                f"{bad[0]} channels cannot be normalised in {GROUPS} groups: "
                f"give a width of {GROUPS} at most, or a multiple of {GROUPS}"
            )
        if bad := [a for a in attention_at if not -levels <= a < levels]:
            raise ValueError(f"attention_at {bad[0]}: the levels are 0 to {levels - 1}")
        if not fixed_std > 0:
            raise ValueError(f"fixed_std is {fixed_std}: give a positive standard deviation")
        if encoder_norm and latent_channels == 1:
            raise ValueError(
                "encoder_norm leaves nothing of one channel: give more latent_channels"
            )
        self.in_channels, self.latent_channels = in_channels, latent_channels
        self.posterior, self.fixed_std, self.encoder_norm = posterior, fixed_std, encoder_norm
        self.downsampling = 2 ** (levels - 1)
        self._one_group = widths[-1] <= GROUPS  # a channel is a group of its own
        attended = {a % levels for a in attention_at}
        self.encoder = _encoder(in_channels, width, widths, blocks, attended, latent_channels)
        out = latent_channels if posterior == "fixed" else 2 * latent_channels
        self.encoder.append(nn.Conv2d(2 * latent_channels, out, 1))
        self.decoder = _decoder(in_channels, widths, blocks + 1, attended, latent_channels)

    def latent_shape(self, image_shape: Sequence[int]) -> tuple[int, int, int]:
        """(c, h, w) of the latents of (C, H, W) images.

        Raises:
            ValueError: another number of channels, or sides that do not fit.
        """
        channels, *sides = image_shape
        if channels != self.in_channels:
            raise ValueError(
                f"the VAE takes images of {self.in_channels} channels, not {channels}: "
                "set in_channels of the VAE"
            )
        size = " x ".join(map(str, sides))
        if any(side % self.downsampling for side in sides):
            raise ValueError(
                f"{size} pixels cannot be divided by {self.downsampling}: "
                "pad the images or give fewer multipliers"
            )
        h, w = (side // self.downsampling for side in sides)
        if self._one_group and h * w == 1:
            raise ValueError(
                f"{size} pixels leave one number a group to normalise: give larger images, fewer "
                f"multipliers, or more than {GROUPS} channels at the last level"
            )
        return self.latent_channels, h, w

    def encode(self, images: Images) -> Posterior:
        self.latent_shape(images.shape[1:])
        out = self.encoder(images).to(images.dtype)
        if self.posterior == "fixed":
            mean = self._normed(out)
            std = mean.new_full((), self.fixed_std).expand_as(mean)
            log_var = mean.new_full((), 2 * math.log(self.fixed_std)).expand_as(mean)
            return Posterior(mean, std, log_var)
        mean, log_var = out.chunk(2, 1)
        log_var = log_var.clamp(*LOG_VAR)
        return Posterior(self._normed(mean), (0.5 * log_var).exp(), log_var)

    def _normed(self, mean: Latents) -> Latents:
        if not self.encoder_norm:
            return mean
        tokens = mean.movedim(1, -1)
        return F.layer_norm(tokens, tokens.shape[-1:], eps=EPS).movedim(-1, 1)

    def decode(self, latents: Latents) -> Images:
        """Images; nothing keeps them within [-1, 1]."""
        if latents.shape[1] != self.latent_channels:
            raise ValueError(
                f"the VAE decodes latents of {self.latent_channels} channels, not "
                f"{latents.shape[1]}: set latent_channels of the VAE"
            )
        return self.decoder(latents).to(latents.dtype)


# --------------------------------------------------------------------------------- its two halves
def _encoder(
    in_channels: int,
    width: int,
    widths: Sequence[int],
    blocks: int,
    attended: set[int],
    latent_channels: int,
) -> nn.Sequential:
    """From images to ``2 latent_channels``, without ``quant_conv``."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1)]
    now = width
    for k, channels in enumerate(widths):
        if k:
            layers.append(Down(now, now, 3, stride=2))
        layers += _level(now, channels, blocks, k in attended)
        now = channels
    layers += [ResBlock(now, now), Attention(now), ResBlock(now, now), _norm(now), nn.SiLU()]
    layers.append(nn.Conv2d(now, 2 * latent_channels, 3, padding=1))
    return nn.Sequential(*layers)


def _decoder(
    in_channels: int, widths: Sequence[int], blocks: int, attended: set[int], latent_channels: int
) -> nn.Sequential:
    now = widths[-1]
    layers: list[nn.Module] = [
        nn.Conv2d(latent_channels, latent_channels, 1),
        nn.Conv2d(latent_channels, now, 3, padding=1),
        ResBlock(now, now),
        Attention(now),
        ResBlock(now, now),
    ]
    for k, channels in reversed(list(enumerate(widths))):
        layers += _level(now, channels, blocks, k in attended)
        now = channels
        if k:
            layers.append(Up(now, now, 3, padding=1))
    layers += [_norm(now), nn.SiLU(), nn.Conv2d(now, in_channels, 3, padding=1)]
    return nn.Sequential(*layers)


def _level(fan_in: int, channels: int, blocks: int, attention: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for k in range(blocks):
        layers.append(ResBlock(channels if k else fan_in, channels))
        if attention:
            layers.append(Attention(channels))
    return layers


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(GROUPS, channels), channels, eps=EPS)


class Down(nn.Conv2d):
    """A convolution of stride 2; zeros stand right and below only."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h//2 w//2"]:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Conv2d):
    """Each pixel four times, then a convolution."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
        return super().forward(F.interpolate(x, scale_factor=2, mode="nearest"))


class ResBlock(nn.Module):
    """Twice GroupNorm, SiLU and a 3x3 convolution, added to the input."""

    def __init__(self, fan_in: int, channels: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            _norm(fan_in),
            nn.SiLU(),
            nn.Conv2d(fan_in, channels, 3, padding=1),
            _norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(fan_in, channels, 1) if fan_in != channels else nn.Identity()

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b _ h w"]:
        return self.shortcut(x) + self.change(x)


class Attention(nn.Module):
    """Self-attention of one head among pixels, added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        # 1x1 convolutions, as products that leave the channels innermost
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        tokens = self.norm(x).flatten(2).mT  # (b, h w, c)
        q, k, v = self.qkv(tokens)[:, None].chunk(3, -1)  # (b, 1, h w, c)
        mixed = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return x + self.project(mixed).mT.unflatten(2, x.shape[2:])
