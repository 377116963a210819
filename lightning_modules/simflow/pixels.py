"""Images as their own latents: what the module needs to train a flow on pixels, without a VAE."""

import math
from collections.abc import Sequence

from lightning_modules.flows import Noise
from lightning_modules.simflow.tokens import to_map, to_tokens
from lightning_modules.simflow.vae import Posterior

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Pixels"]

Images = Float[Tensor, "batch C H W"]


class Pixels(nn.Module):
    """Patches of an image as latents, with noise: TarFlow's two ways to make pixels continuous.

    It stands where the VAE stands, has no parameters, and decodes exactly.

    Args:
        in_channels: of an image, whose values lie in [-1, 1].
        patch: side of a patch; its C patch^2 values are one token.
        std: of Gaussian noise added to images (TarFlow: 0.05 to 0.15). Without, uniform noise
            over each of 256 levels, ``((x + 1) 127.5 + u) / 128 - 1``: a likelihood of integers.
        order: of the values of a token, as ``to_tokens``.
    """

    def __init__(
        self,
        in_channels: int = 3,
        patch: int = 4,
        std: float | None = None,
        order: str = "channel",
    ) -> None:
        super().__init__()
        self.in_channels, self.patch, self.order = in_channels, patch, order
        self.std = std
        self.latent_channels, self.downsampling = in_channels * patch**2, patch

    @property
    def fixed_std(self) -> float | None:
        return self.std

    def latent_shape(self, image_shape: Sequence[int]) -> tuple[int, int, int]:
        """(c, h, w) of the latents of (C, H, W) images."""
        channels, h, w = image_shape
        return channels * self.patch**2, h // self.patch, w // self.patch

    def encode(self, images: Images) -> Posterior:
        x = to_tokens(images, self.patch, self.order).mT
        x = x.unflatten(2, (images.shape[2] // self.patch, -1))
        if self.std is None:
            return _Dequantised(x, torch.full_like(x, 1 / 256), torch.full_like(x, math.nan))
        std = torch.full_like(x, self.std)
        return Posterior(x, std, 2 * std.log())

    def log_mass(self, log_prob: Float[Tensor, " batch"], dims: int) -> Float[Tensor, " batch"]:
        """Log-probability of the integer images, nats, from the density of the continuous ones."""
        return log_prob - dims * math.log(128)

    def decode(self, latents: Float[Tensor, "batch c h w"]) -> Images:
        tokens = latents.flatten(2).mT
        return to_map(tokens, latents.shape[2:], self.patch, self.order)


class _Dequantised(Posterior):
    """Uniform over the cell of each of 256 levels."""

    def sample(self, noise: Noise | Tensor) -> Tensor:
        u = noise.uniform(self.mean.shape, self.mean) if isinstance(noise, Noise) else noise
        return ((self.mean + 1) * 127.5 + u) / 128 - 1
