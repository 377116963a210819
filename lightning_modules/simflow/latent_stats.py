"""How smooth and how loud a latent is: the paper's four statistics, and the signal-to-noise ratio.

Latents ``mu`` are (B, C, H, W) and are the encoder's means: the noise of the posterior would hide
their correlations. The paper names its statistics without defining them; these definitions give
its values for white latents (0.24, 0.99 and, in units of the standard deviation, 1.13). Channels
add up before a ratio is formed, so that one counts by its power and one that is switched off not
at all, unless they are standardised. Constant latents have no variation to tell of: all but their
mean magnitude is 0.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "autocorrelation",
    "centred",
    "high_frequency_ratio",
    "latent_stats",
    "power_spectrum",
    "shares",
    "spectral_entropy",
    "standardised",
    "total_variation",
]

Latents = Float[Tensor, "B C H W"]


# ------------------------------------------------------------------ in frequency
@torch.no_grad()
def power_spectrum(mu: Latents, block: int = 2**22) -> Float[Tensor, "B H W"]:
    """Power of each image at each frequency, averaged over channels, float64.

    In the order of ``fftfreq``: the mean, which is no variation, stands at [0, 0].

    Args:
        block: values transformed at a time.

    Raises:
        ValueError: maps that are not square or have a single token.
    """
    side = mu.shape[-1]
    if mu.shape[-2] != side or side < 2:
        raise ValueError(f"latents need a square grid of tokens, not {tuple(mu.shape[-2:])}")
    parts = mu.split(max(1, block // mu[0].numel()))
    return torch.cat([torch.fft.fft2(p.double()).abs().square().mean(1) for p in parts])


def shares(power: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
    """Each frequency's share of its image's power; 0 in an image without any."""
    return _share(power, power.sum((1, 2), keepdim=True))


def high_frequency_ratio(
    power: Float[Tensor, "B H W"], threshold: float | None = None
) -> Float[Tensor, " B"]:
    """Share of each image's power above a radial frequency, in [0, 1]; scale-free.

    Args:
        power: what ``power_spectrum`` gives, the means included.
        threshold: cycles per side; half the side without, which white latents exceed in 61 of
            256 bins at a side of 16 and in 5 of 16 at a side of 4.
    """
    side = power.shape[-1]
    cycles = torch.fft.fftfreq(side, 1 / side, dtype=power.dtype, device=power.device)
    high = cycles[:, None].hypot(cycles) > (side / 2 if threshold is None else threshold)
    return _share((power * high).sum((1, 2)), power.sum((1, 2)))


def spectral_entropy(power: Float[Tensor, "B H W"]) -> Float[Tensor, " B"]:
    """Shannon entropy of each image's power over its H W bins, over log(H W): in [0, 1].

    1 for power that is equal everywhere. Of white latents it is about ``1 - 0.423 / log(H W)`` at
    one channel, and nearer to 1 the more channels are averaged. Scale-free.
    """
    p = shares(power)
    return torch.special.entr(p).sum((1, 2)) / math.log(p[0].numel())


# ------------------------------------------------------------------ between neighbours
@torch.no_grad()
def autocorrelation(mu: Latents) -> float:
    """Pearson correlation of tokens one step apart, mean of the two axes, in [-1, 1].

    Over all images and places, after each channel has lost its mean. Scale-free.
    """
    return sum(_pearson(a, b) for a, b in _neighbours(mu)) / 2


@torch.no_grad()
def total_variation(mu: Latents) -> float:
    """Mean absolute difference of tokens one step apart, mean of the two axes, as scaled.

    Of Gaussian latents ``1.128 std sqrt(1 - autocorrelation)``.
    """
    return sum(float((b - a).abs().mean(dtype=torch.float64)) for a, b in _neighbours(mu)) / 2


# ------------------------------------------------------------------ all of them
@torch.no_grad()
def centred(mu: Latents) -> Latents:
    """Each channel without its mean; float64, exactly 0 where it is constant, however rounded."""
    x = mu.double()
    constant = x.amax((0, 2, 3), keepdim=True) == x.amin((0, 2, 3), keepdim=True)
    return (x - x.mean((0, 2, 3), keepdim=True)).masked_fill(constant, 0)


@torch.no_grad()
def standardised(mu: Latents) -> Latents:
    """Each channel with mean 0 and variance 1 over images and places; a constant one is 0."""
    x = centred(mu)
    std = x.square().mean((0, 2, 3), keepdim=True).sqrt()
    return (x / std.masked_fill(std == 0, 1)).to(mu.dtype)


@torch.no_grad()
def latent_stats(
    mu: Latents, sigma: float | None = None, threshold: float | None = None
) -> dict[str, float]:
    """All statistics of the means of a set of images.

    Args:
        sigma: standard deviation of the posterior (the paper's sigma_bar; of a predicted one, the
            root of the mean variance), if the signal-to-noise ratio is wanted.
        threshold: as ``high_frequency_ratio``.

    Returns:
        ``hf_ratio`` and ``spectral_entropy``, means over images, and both ``_centred``: a constant
        offset of a channel, which is power at frequency 0, taken away before; ``autocorrelation``;
        ``total_variation`` and ``total_variation_standardised``; ``std``, the root of the mean
        variance of a channel; ``mean_abs``, of all values; and, with ``sigma``, ``snr``, the ratio
        ``std^2 / sigma^2``.

    Raises:
        ValueError: as ``power_spectrum``; a sigma that is not positive; values that are not
            finite.
    """
    if sigma is not None and not sigma > 0:
        raise ValueError(f"the posterior's standard deviation must be positive, not {sigma:g}")
    if not mu.isfinite().all():
        raise ValueError("latents hold values that are not finite: the model has diverged")
    rest, power = centred(mu), power_spectrum(mu)
    variance, alone = float(rest.square().mean()), power_spectrum(rest)
    found = {
        "hf_ratio": float(high_frequency_ratio(power, threshold).mean()),
        "hf_ratio_centred": float(high_frequency_ratio(alone, threshold).mean()),
        "spectral_entropy": float(spectral_entropy(power).mean()),
        "spectral_entropy_centred": float(spectral_entropy(alone).mean()),
        "autocorrelation": autocorrelation(mu),
        "total_variation": total_variation(mu),
        "total_variation_standardised": total_variation(standardised(mu)),
        "std": math.sqrt(variance),
        "mean_abs": float(mu.abs().mean(dtype=torch.float64)),
    }
    return found if sigma is None else found | {"snr": variance / sigma**2}


def _neighbours(mu: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Tokens and the next ones, along rows and along columns."""
    return [(mu[..., :-1], mu[..., 1:]), (mu[..., :-1, :], mu[..., 1:, :])]


def _pearson(a: Latents, b: Latents) -> float:
    a, b = centred(a), centred(b)
    norm = math.sqrt(float(a.square().sum()) * float(b.square().sum()))
    return float((a * b).sum()) / norm if norm else 0.0


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return part / whole.masked_fill(whole == 0, 1)
