"""Classifier-free guidance of Gaussians: from two predictions of a token to one (section 6.1)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["RULES", "Guidance"]

Some = Float[Tensor, "batch n C"]
Pair = tuple[Some, Some]


def linear(log_c: Some, m_c: Some, log_u: Some, m_u: Some, w: Tensor) -> Pair:
    """Log-scale and mean extrapolated alike (TarFlow)."""
    return log_c + w * (log_c - log_u), m_c + w * (m_c - m_u)


def score(log_c: Some, m_c: Some, log_u: Some, m_u: Some, w: Tensor) -> Pair:
    """The Gaussian proportional to ``p_c^(1 + w) / p_u^w`` (STARFlow).

    Its precision is ``(1 + w) / sigma_c^2 - w / sigma_u^2``. Where the unconditional scale is the
    smaller one it counts as equal, so that the precision is positive and a scale only shrinks.
    """
    ratio = torch.exp(2 * (log_c - log_u).clamp(max=0))
    precision = 1 + w - w * ratio  # in units of 1 / sigma_c^2
    return log_c - 0.5 * precision.log(), ((1 + w) * m_c - w * ratio * m_u) / precision


RULES: dict[str, Callable[..., Pair]] = {"linear": linear, "score": score}


@dataclass(frozen=True)
class Guidance:
    """How a condition is exaggerated.

    Args:
        weight: w; 0 is the conditional model itself.
        rule: ``linear`` or ``score``.
        blocks: ``deep``, the last block alone, or ``all``.
        annealed: w grows linearly along the sequence, from 0 at the first token to its value at
            the last one (TarFlow).
        temperature: of the attention of the branch without condition. Where there is no condition
            at all, this is what is guided away from.

    Raises:
        ValueError: an unknown rule or choice of blocks, a weight below 0, or a temperature not
            above 0.
    """

    weight: float
    rule: str = "score"
    blocks: str = "deep"
    annealed: bool = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"unknown rule {self.rule!r}: choose one of {', '.join(RULES)}")
        if self.blocks not in ("deep", "all"):
            raise ValueError(f"unknown blocks {self.blocks!r}: choose deep or all")
        if self.weight < 0 or self.temperature <= 0:
            raise ValueError("a guidance weight is 0 or more, a temperature above 0")

    def weights(self, tokens: int) -> Tensor:
        """w of each token (tokens, 1)."""
        if not self.annealed or tokens == 1:
            return torch.full((tokens, 1), float(self.weight))
        return self.weight * torch.arange(tokens)[:, None] / (tokens - 1)
