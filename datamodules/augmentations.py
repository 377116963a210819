"""What training images go through: flips and shifts each time they are seen, damage once."""

import math
from collections.abc import Callable

from datamodules.batches import generator

import torch
from jaxtyping import UInt8
from torch import Tensor

__all__ = ["AUGMENTATIONS", "DAMAGES", "damaged", "flip", "flip_and_shift"]

Images = UInt8[Tensor, "batch C H W"]

SHIFT = 0.04  # of the side, at most (DenseFlow's training recipe)


def flip(x: Images, rng: torch.Generator) -> Images:
    """Mirror half of the images."""
    chosen = torch.rand(len(x), generator=rng) < 0.5
    return torch.where(chosen[:, None, None, None], x.flip(3), x)


def flip_and_shift(x: Images, rng: torch.Generator) -> Images:
    """Mirror half of the images and move each by up to 4 % of its sides, edges repeated.

    The recipe that DenseFlow's code calls ``eta``: pad by the edge, translate, crop the centre.
    """
    x = flip(x, rng)
    n, channels, *sides = x.shape
    moves = [
        (torch.arange(side) - ((2 * torch.rand(n, 1, generator=rng) - 1) * SHIFT * side).round())
        .long()
        .clamp(0, side - 1)
        for side in sides
    ]
    rows, columns = moves[0][:, None, :, None], moves[1][:, None, None, :]
    return x[
        torch.arange(n)[:, None, None, None], torch.arange(channels)[:, None, None], rows, columns
    ]


def gaussian(x: Images, rng: torch.Generator) -> Images:
    """Normal noise of standard deviation 25 on the scale 0..255."""
    return _bytes(x + 25 * torch.randn(x.shape, generator=rng))


def salt_and_pepper(x: Images, rng: torch.Generator) -> Images:
    """One pixel in ten black or white, all its channels alike."""
    u = torch.rand(len(x), 1, *x.shape[2:], generator=rng)
    return torch.where(u < 0.05, 0, torch.where(u > 0.95, 255, x)).to(torch.uint8)


def clutter(x: Images, rng: torch.Generator) -> Images:
    """A patch of half the sides, cut from another image of the set at the same place."""
    n, _, *sides = x.shape
    inside = torch.ones(n, 1, 1, 1, dtype=torch.bool)
    for axis, side in enumerate(sides):
        first = torch.randint(math.ceil(side / 2) + 1, (n, 1), generator=rng)
        at = torch.arange(side)
        within = (at >= first) & (at < first + side // 2)
        inside = inside & (within[:, None, :, None] if axis == 0 else within[:, None, None, :])
    return torch.where(inside, x[torch.randint(n, (n,), generator=rng)], x)


AUGMENTATIONS: dict[str, Callable[[Images, torch.Generator], Images] | None] = {
    "none": None,
    "flip": flip,
    "eta": flip_and_shift,
}
DAMAGES: dict[str, Callable[[Images, torch.Generator], Images]] = {
    "gaussian": gaussian,
    "salt_and_pepper": salt_and_pepper,
    "clutter": clutter,
}


def damaged(x: Images, kind: str, share: float, name: str) -> Images:
    """``x`` with a share of its images damaged, always the same ones for the same ``name``."""
    chosen = torch.randperm(len(x), generator=generator(0, "damaged", name))
    chosen = chosen[: round(share * len(x))].sort().values
    out = x.clone()
    out[chosen] = DAMAGES[kind](x, generator(0, "damage", name))[chosen]
    return out


def _bytes(x: Tensor) -> Images:
    return x.round().clamp(0, 255).to(torch.uint8)
