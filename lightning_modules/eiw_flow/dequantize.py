"""Dequantisation: integers of b bits become reals, and what that costs in likelihood."""

import math

from lightning_modules.flows import Noise

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Dequantizer", "Uniform"]

Images = Float[Tensor, "batch C H W"]
PerSample = Float[Tensor, " batch"]


class Dequantizer(nn.Module):
    """``y = (x + u) / 2^b - 1/2`` with noise u from the unit cube.

    Args:
        bits: b; pixels are integers from 0 to 2^b - 1.
    """

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, x: Images, noise: Noise) -> tuple[Images, PerSample]:
        """``y`` and what to add, in nats (batch,): log P(x) >= E [log q(y) + it]."""
        u, log_density = self.draw(x, noise)
        y = (x + u) / 2**self.bits - 0.5
        return y, -log_density - x[0].numel() * self.bits * math.log(2)

    def draw(self, x: Images, noise: Noise) -> tuple[Images, PerSample]:
        """``u`` and the logarithm of its density given ``x``, nats."""
        raise NotImplementedError

    def inverse(self, y: Images) -> Images:
        """The integers, as floats within 0 and 2^b - 1, in whose cells ``y`` lies."""
        return ((y + 0.5) * 2**self.bits).floor().clamp(0, 2**self.bits - 1)


class Uniform(Dequantizer):
    """Uniform noise: it costs ``D b ln 2``."""

    def draw(self, x: Images, noise: Noise) -> tuple[Images, PerSample]:
        return noise.uniform(x.shape, x), x.new_zeros(len(x))
