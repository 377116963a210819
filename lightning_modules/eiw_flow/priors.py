"""Densities for what a split factors out, and for what remains at the last scale."""

import math
from collections.abc import Callable

from lightning_modules.flows import Noise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["PRIORS", "Conditional", "Diagonal", "Logistic", "Mixture", "Prior", "Standard"]

Latent = Float[Tensor, "batch C H W"]
PerSample = Float[Tensor, " batch"]


class Prior(nn.Module):
    """A density over latents (batch, C, H, W), given what flows on, if it asks for that."""

    def log_prob(self, z: Latent, kept: Latent | None = None) -> PerSample:
        """Nats, summed over a sample's dimensions."""
        raise NotImplementedError

    def sample(
        self, like: Latent, noise: Noise, temperature: float = 1.0, kept: Latent | None = None
    ) -> Latent:
        """A draw of the shape of ``like``; ``temperature`` multiplies the spread."""
        raise NotImplementedError


class Standard(Prior):
    """N(0, I), the prior of what the paper's flow factors out."""

    def __init__(self, channels: int = 0) -> None:
        super().__init__()

    def log_prob(self, z: Latent, kept: Latent | None = None) -> PerSample:
        return _normal(z)

    def sample(
        self, like: Latent, noise: Noise, temperature: float = 1.0, kept: Latent | None = None
    ) -> Latent:
        return temperature * noise.normal(like.shape, like)


class Diagonal(Prior):
    """A normal density with a learned mean and log-scale per channel, both 0 at the start."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def log_prob(self, z: Latent, kept: Latent | None = None) -> PerSample:
        whitened = (z - self.mean) * torch.exp(-self.log_scale)
        return _normal(whitened) - z[0, 0].numel() * self.log_scale.sum()

    def sample(
        self, like: Latent, noise: Noise, temperature: float = 1.0, kept: Latent | None = None
    ) -> Latent:
        return self.mean + temperature * self.log_scale.exp() * noise.normal(like.shape, like)


class Logistic(Prior):
    """Independent standard logistic densities, scaled to unit variance."""

    _SCALE = math.sqrt(3) / math.pi

    def __init__(self, channels: int = 0) -> None:
        super().__init__()

    def log_prob(self, z: Latent, kept: Latent | None = None) -> PerSample:
        a = z / self._SCALE
        return (-a - 2 * F.softplus(-a) - math.log(self._SCALE)).flatten(1).sum(1)

    def sample(
        self, like: Latent, noise: Noise, temperature: float = 1.0, kept: Latent | None = None
    ) -> Latent:
        u = noise.uniform(like.shape, like)
        u = u.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps)
        return temperature * self._SCALE * (u.log() - torch.log1p(-u))


class Mixture(Prior):
    """Two normal densities per channel, with learned weights, means and scales."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2, 1, channels, 1, 1))
        self.mean = nn.Parameter(
            torch.tensor([-0.5, 0.5]).reshape(2, 1, 1, 1, 1).repeat(1, 1, channels, 1, 1)
        )
        self.log_scale = nn.Parameter(torch.zeros(2, 1, channels, 1, 1))

    def log_prob(self, z: Latent, kept: Latent | None = None) -> PerSample:
        whitened = (z - self.mean) * torch.exp(-self.log_scale)
        each = -0.5 * (whitened.square() + math.log(2 * math.pi)) - self.log_scale
        return torch.logsumexp(each + self.logits.log_softmax(0), 0).flatten(1).sum(1)

    def sample(
        self, like: Latent, noise: Noise, temperature: float = 1.0, kept: Latent | None = None
    ) -> Latent:
        first = noise.uniform(like.shape, like) < self.logits.softmax(0)[0]
        mean = torch.where(first, self.mean[0], self.mean[1])
        log_scale = torch.where(first, self.log_scale[0], self.log_scale[1])
        return mean + temperature * log_scale.exp() * noise.normal(like.shape, like)


class Conditional(Prior):
    """A normal density whose mean and log-scale a 3x3 convolution reads off what flows on (Glow).

    It starts as N(0, I).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        nn.init.zeros_(self.net.weight)
        nn.init.zeros_(self.net.bias)

    def log_prob(self, z: Latent, kept: Latent | None = None) -> PerSample:
        mean, log_scale = self.net(kept).chunk(2, 1)
        return _normal((z - mean) * torch.exp(-log_scale)) - log_scale.flatten(1).sum(1)

    def sample(
        self, like: Latent, noise: Noise, temperature: float = 1.0, kept: Latent | None = None
    ) -> Latent:
        mean, log_scale = self.net(kept).chunk(2, 1)
        return mean + temperature * log_scale.exp() * noise.normal(like.shape, like)


PRIORS: dict[str, Callable[[int], Prior]] = {
    "standard": Standard,
    "diagonal": Diagonal,
    "logistic": Logistic,
    "mixture": Mixture,
    "conditional": Conditional,
}


def _normal(z: Latent) -> PerSample:
    """Log-density of N(0, I)."""
    z = z.flatten(1)
    return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))
