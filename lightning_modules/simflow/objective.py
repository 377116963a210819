"""The parts of SimFlow's loss, its stages, and what its reconstructions are measured by."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Terms", "psnr", "stages"]

PerSample = Float[Tensor, " batch"]


@dataclass
class Terms:
    """The parts of the loss, each a scalar with its weight in it; zero where it is not used.

    Attributes:
        reconstruction: mean of ``|D(x) - i|`` over pixels.
        perceptual, adversarial: LPIPS and the generator's hinge loss, means over the batch.
        kl: of the posterior from N(0, I), summed over dimensions, mean over the batch.
        nll: ``-log p(x | y)`` of the latents, nats per dimension, mean over the batch.
        entropy: minus that of the posterior, nats per dimension.
        alignment: ``1 - cos`` of projected hidden states and a teacher's features.
        size: mean square of what passes between the flow's blocks.
    """

    reconstruction: Tensor
    perceptual: Tensor
    adversarial: Tensor
    kl: Tensor
    nll: Tensor
    entropy: Tensor
    alignment: Tensor
    size: Tensor

    @property
    def total(self) -> Tensor:
        return sum(getattr(self, f.name) for f in fields(self))


def stages(settings: dict[str, Any]) -> Iterator[int | None]:
    """The updates of each stage, None for the rest of a run.

    In between a module of these settings makes updates as most of that stage are: judged by a
    discriminator, the latents' moments known. Afterwards the settings are what they were.
    """
    kept = dict(settings)
    try:
        for updates in (kept["pretrain"], None) if kept["pretrain"] else (None,):
            settings.update(pretrain=updates or 0, discriminator_after=0, standardise=False)
            yield updates
    finally:
        settings.update(kept)


def psnr(error: PerSample) -> PerSample:
    """Peak signal to noise, dB, of mean squared errors of images in [-1, 1], whose peak is 2."""
    return 10 * torch.log10(4 / error.clamp_min(1e-12))
