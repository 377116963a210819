"""Statistics over the batches of all devices, for layers that initialise themselves from data."""

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["moments"]


@torch.no_grad()
def moments(x: Tensor, dim: tuple[int, ...], correction: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and variance of ``x`` over ``dim`` and over all devices, ``dim`` kept as 1.

    Every device gets the numbers that one device would get from the whole batch, so that a layer
    that is initialised by them is the same everywhere. All devices must call it together. Sums
    are taken in float64. The variance divides by the count less ``correction``: 0 is biased, 1 is
    not.
    """
    wide = x.double()
    count = wide.new_tensor(x.numel() / max(wide.sum(dim).numel(), 1))
    total = wide.sum(dim, keepdim=True)
    together = dist.is_available() and dist.is_initialized()
    if together:
        dist.all_reduce(total)
        dist.all_reduce(count)
    mean = total / count
    square = (wide - mean).square().sum(dim, keepdim=True)
    if together:
        dist.all_reduce(square)
    return mean.to(x.dtype), (square / (count - correction)).to(x.dtype)
