"""What score matching would store: why the score itself does not measure information.

A score-matching model's zero network runs the forward drift backwards, so its departure is the
whole score, ``S_SM = int sigma^2/2 E |score|^2 ds``. That grows with the diffusion time whatever
the data are: ``D U`` nats for data that are noise already, where ``U = -log mu``.
"""

from collections.abc import Callable
from typing import Any

from lightning_modules.neural_entropy.estimators import entropy_drop
from lightning_modules.neural_entropy.processes import Process

import torch
from torch import Tensor

__all__ = ["departure", "entropy_matching", "score_matching_entropy", "score_matching_excess"]

Field = Callable[..., Tensor]


def score_matching_excess(
    process: Process, second_moment: float, dim: int, hi: float = 1.0
) -> float:
    """``S_SM - S_tot`` over [0, hi] in nats, for any data with this ``E |x|^2``; of either sign.

    ``D U + (D - E|x|^2 / kappa^2) (1 - mu^2) / 2`` with U and mu at ``hi``.
    """
    log_mu = process.log_mu(torch.tensor(hi, dtype=torch.float64))
    shed = -float(torch.expm1(2 * log_mu))  # 1 - mu^2
    return -dim * float(log_mu) + (dim - second_moment / process.kappa**2) * shed / 2


def score_matching_entropy(
    process: Process, density: Any, points: Callable[[Any], tuple[Tensor, Tensor]], hi: float = 1.0
) -> tuple[float, float]:
    """``S_SM = int sigma^2/2 E |score|^2 ds`` over [0, hi], which is ``H(p_hi) - H(p_d) + D U``.

    ``density`` and ``points`` as in ``entropy_drop``. For SL it diverges as hi -> 1.

    Returns:
        S_SM in nats, and its standard error (meaningful for a sample only).
    """
    total, error = entropy_drop(process, density, points, hi)
    excess = score_matching_excess(process, density.second_moment(), density.dim, hi)
    return total + excess, error


def departure(process: Process, e_theta: Field) -> Field:
    """``s_theta = score_eq + e_theta``, whose entropy curves are those of S_SM."""
    return lambda y, *rest: process.score_eq(y) + e_theta(y, *rest)


def entropy_matching(process: Process, s_theta: Field) -> Field:
    """``e_theta = s_theta - score_eq``: the repair, whose S_NN is S_tot at the optimum.

    Applied to a network trained by score matching, it leaves the network's law as it is.
    """
    return lambda y, *rest: s_theta(y, *rest) - process.score_eq(y)
