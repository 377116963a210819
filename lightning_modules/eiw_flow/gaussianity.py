"""Kolmogorov-Smirnov distance of features from N(0, 1): are factored-out channels Gaussian?

Of the paper's two distances (Figure 5) neither scale nor channels nor standardisation is known;
the protocol here is ours: all elements together and channel by channel, raw and standardised.
Features ``u`` are (M, C, H, W), M images; distances have no unit and are computed in float64.
"""

from dataclasses import dataclass

from lightning_modules.eiw_flow.entropy import Features, check_features, spread

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Gaussianity", "gaussianity", "ks_distance", "ks_interval"]

BINS = 512  # of equal probability under N(0, 1), where resampled distributions are compared


def ks_distance(x: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows"]:
    """``D = sup |F_n - Phi|`` of each row of values against N(0, 1), in [1 / 2n, 1]."""
    x = x.double().sort(-1).values
    n, phi = x.shape[-1], torch.special.ndtr(x)
    steps = torch.arange(n + 1, device=x.device, dtype=torch.float64) / n
    return torch.maximum(steps[1:] - phi, phi - steps[:-1]).amax(-1)


@dataclass(frozen=True)
class Gaussianity:
    """KS distances of features from N(0, 1).

    Attributes:
        pooled: of all elements together.
        channels: of the values of each channel.
        n: values pooled.
    """

    pooled: float
    channels: Float[Tensor, " C"]
    n: int

    @property
    def median(self) -> float:
        """Over channels."""
        return float(self.channels.quantile(0.5))

    @property
    def iqr(self) -> float:
        """Interquartile range over channels."""
        return float(self.channels.quantile(0.75) - self.channels.quantile(0.25))


@torch.no_grad()
def gaussianity(u: Features, standardised: bool = False) -> Gaussianity:
    """KS distance from N(0, 1), pooled and per channel (protocol ours).

    Args:
        standardised: each channel gets mean 0 and variance 1 first. As these are estimated, D is
            smaller than of a fixed N(0, 1) and its p-value would be Lilliefors'. A constant
            channel becomes 0, of which D = 0.5.

    Raises:
        ValueError: fewer than 8 images, or values that are not finite.
    """
    check_features(u)
    x = u.transpose(0, 1).flatten(1).double()
    x = _standardised(x) if standardised else x
    return Gaussianity(float(ks_distance(x.flatten())), ks_distance(x), x.numel())


@torch.no_grad()
def ks_interval(
    u: Features,
    standardised: bool = False,
    replicates: int = 200,
    level: float = 0.95,
    rng: torch.Generator | None = None,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the pooled D; images are resampled, not values.

    Each replicate is standardised anew. Its D is taken at 511 quantiles of N(0, 1), so that it is
    up to 1/512 too small. It carries the noise of sampling twice: close to a Gaussian, the
    interval lies above the D of the sample. ``rng`` is a generator on the CPU.

    Raises:
        ValueError: as ``gaussianity``.
    """
    check_features(u)
    n = len(u)
    draws = torch.randint(n, (replicates, n), generator=rng).to(u.device)
    counts = torch.zeros(replicates, n, device=u.device)
    counts.scatter_add_(1, draws, torch.ones_like(counts))
    phi = torch.arange(1, BINS, dtype=torch.float64, device=u.device) / BINS
    cdf = torch.zeros(replicates, BINS - 1).to(phi)
    groups = u.unbind(1) if standardised else [u]  # what shares a shift and a scale
    for group in groups:
        x = group.flatten(1).double()
        x = _standardised(x.reshape(1, -1)).view(n, -1) if standardised else x
        bins = (BINS * torch.special.ndtr(x)).long().clamp_max(BINS - 1)
        bins += BINS * torch.arange(n, device=u.device)[:, None]
        seen = torch.bincount(bins.flatten(), minlength=n * BINS).view(n, BINS).to(counts)
        below = torch.nn.functional.pad((counts @ seen).to(phi).cumsum(1) / x.numel(), (1, 0))
        if standardised:
            mean, square = (counts.to(phi) @ v.mean(1) / n for v in (x, x.square()))
            std = (square - mean.square()).clamp_min(0).sqrt()
            below = _between(below, mean, std.where(std > 0, 1), torch.special.ndtri(phi))
        else:
            below = below[:, 1:-1]
        cdf += below / len(groups)
    distance = (cdf - phi).abs().amax(1)
    low, high = distance.quantile(cdf.new_tensor([(1 - level) / 2, (1 + level) / 2])).tolist()
    return low, high


def _between(below: Tensor, mean: Tensor, std: Tensor, quantiles: Tensor) -> Tensor:
    """Distribution functions, known at all ``Phi^-1(i / BINS)``, at ``mean + std * quantiles``."""
    at = BINS * torch.special.ndtr(mean[:, None] + std[:, None] * quantiles)
    i = at.long().clamp_max(BINS - 1)
    return below.gather(1, i).lerp(below.gather(1, i + 1), at - i)


def _standardised(x: Float[Tensor, "rows n"]) -> Float[Tensor, "rows n"]:
    """Rows of mean 0 and variance 1; a constant one becomes 0."""
    std = spread(x)[:, None]
    return (x - x.mean(1, keepdim=True)) / std.masked_fill(std == 0, 1)
