"""Dequantisation: integers of b bits become reals, and what that costs in likelihood."""

import math

from lightning_modules.flows import Noise

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Uniform"]


class Uniform(nn.Module):
    """``y = (x + u) / 2^b - 1/2`` with uniform noise u.

    Args:
        bits: b; pixels are integers from 0 to 2^b - 1.
    """

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        self.bits = bits

    def forward(
        self, x: Float[Tensor, "batch C H W"], noise: Noise
    ) -> tuple[Float[Tensor, "batch C H W"], Float[Tensor, " batch"]]:
        """``y`` and ``-D b ln 2``: log P(x) >= E log q(y) + it, in nats (batch,)."""
        y = (x + noise.uniform(x.shape, x)) / 2**self.bits - 0.5
        cost = x[0].numel() * self.bits * math.log(2)
        return y, x.new_full((len(x),), -cost)

    def inverse(self, y: Float[Tensor, "batch C H W"]) -> Float[Tensor, "batch C H W"]:
        """The integers, as floats within 0 and 2^b - 1, in whose cells ``y`` lies."""
        return ((y + 0.5) * 2**self.bits).floor().clamp(0, 2**self.bits - 1)
