"""What both flows are made of: bijections that know the log-determinant of their Jacobian."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Chain", "Noise", "Transform", "bits_per_dim"]


class Noise:
    """Standard normal and uniform draws, and signs: from a generator, or the ones given.

    Args:
        rng: where draws come from; torch's global generator without.
        given: tensors handed out instead, in this order, so that noise can be held fixed.
        rank, world: this device's share. Noise is drawn for the batch of all devices, of which
            each takes its rows: two devices follow one with the doubled batch.
    """

    def __init__(
        self,
        rng: torch.Generator | None = None,
        given: Iterable[Tensor] = (),
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.rng, self._given, self.rank, self.world = rng, list(given), rank, world

    def normal(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Standard normal numbers, on the device and of the type of ``like``."""
        return self._draw(torch.randn, shape, like)

    def uniform(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Numbers from [0, 1)."""
        return self._draw(torch.rand, shape, like)

    def rademacher(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Signs, -1 or 1 with equal chances."""
        return self._draw(_signs, shape, like)

    def _draw(self, kind: Callable[..., Tensor], shape: Sequence[int], like: Tensor) -> Tensor:
        if self._given:
            draw = self._given.pop(0)
            if draw.shape != torch.Size(shape):
                raise ValueError(
                    f"noise of shape {tuple(draw.shape)} given, {tuple(shape)} wanted"
                )
            return draw
        rows = shape[0]
        draw = kind(
            (self.world * rows, *shape[1:]),
            generator=self.rng,
            device=like.device,
            dtype=like.dtype,
        )
        return draw[self.rank * rows : (self.rank + 1) * rows]


class Transform(nn.Module, ABC):
    """A bijection on batches, differentiable, with the log-determinant of its Jacobian.

    A transform that appends noise channels is one between (x, noise) and y: its ``forward`` draws
    the noise and subtracts its log-density from the log-determinant; its ``inverse`` drops it.
    """

    @abstractmethod
    def forward(self, x: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """``y`` and ``log |det dy/dx|``: (batch,), nats, a sum over each sample's dimensions."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """``x`` with ``forward(x)[0] = y``."""


class Chain(Transform):
    """Transforms one after another."""

    def __init__(self, transforms: Iterable[Transform]) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)

    def forward(self, x: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(len(x))
        for transform in self.transforms:
            x, logdet = transform(x, noise)
            total = total + logdet
        return x, total

    def inverse(self, y: Tensor) -> Tensor:
        for transform in reversed(self.transforms):
            y = transform.inverse(y)
        return y


def bits_per_dim(log_prob: Float[Tensor, "*batch"], dims: int) -> Float[Tensor, "*batch"]:
    """Bits per dimension of a log-probability in nats: the one place that divides."""
    return -log_prob / (dims * math.log(2))


def _signs(shape: Sequence[int], **options: Any) -> Tensor:
    return 2 * torch.randint(2, shape, **options) - 1
