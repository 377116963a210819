"""The forward processes VP, VPx and SL: linear SDEs with one Gaussian for ever quasi-invariant.

All three are Ornstein-Uhlenbeck flows  dY = -a(s) Y ds + sigma(s) dB  with  sigma^2 = 2 a kappa^2,
so  p_eq = N(0, kappa^2 I)  at every time s, and they differ in a(s) and kappa alone
(Neural Entropy, section "processes"; values from the authors' code).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["PROCESSES", "Process", "SL", "VP"]


@dataclass(frozen=True)
class Process:
    """A linear forward SDE on [0, 1]; times ``s`` are tensors of any shape, results have theirs.

    Attributes:
        kappa: standard deviation of the quasi-invariant density N(0, kappa^2 I).
        s_min, s_max: the times on which the loss and the estimators are defined.
    """

    kappa: float = 1.0
    s_min: float = 1e-5
    s_max: float = 1.0

    def a(self, s: Tensor) -> Tensor:
        """Rate of the mean's decay, ``-d log mu / ds``."""
        raise NotImplementedError

    def log_mu(self, s: Tensor) -> Tensor:
        """``log mu(s) = -int_0^s a``; ``-log mu`` is the clock in which all processes agree."""
        raise NotImplementedError

    def mu(self, s: Tensor) -> Tensor:
        """Mean of the kernel: ``y | x ~ N(mu(s) x, std(s)^2 I)``."""
        return self.log_mu(s).exp()

    def std(self, s: Tensor) -> Tensor:
        """Standard deviation of the kernel, ``kappa sqrt(1 - mu^2)``."""
        # expm1: at s = 1e-5 a float32 `1 - mu^2` keeps one digit
        return self.kappa * torch.sqrt(-torch.expm1(2 * self.log_mu(s)))

    def sigma2(self, s: Tensor) -> Tensor:
        """Squared diffusion coefficient ``sigma(s)^2 = 2 a kappa^2``."""
        return 2 * self.kappa**2 * self.a(s)

    def drift(self, y: Tensor, s: Tensor) -> Tensor:
        """Forward drift ``b_+(y, s) = -a(s) y``; ``s`` broadcasts against ``y``."""
        return -self.a(s) * y

    def score_eq(self, y: Tensor) -> Tensor:
        """Score of the quasi-invariant density, ``2 b_+ / sigma^2 = -y / kappa^2``."""
        return -y / self.kappa**2

    def prior_std(self) -> float:
        """Standard deviation of the generator's start p_0 = N(0, std(1)^2 I)."""
        return float(self.std(torch.tensor(1.0, dtype=torch.float64)))


@dataclass(frozen=True)
class VP(Process):
    """Variance preserving with ``beta(s)`` linear; VPx is the same with ``kappa = 0.1``.

    ``beta_max`` is 16 in the authors' code, not the usual 20.
    """

    beta_min: float = 0.1
    beta_max: float = 16.0

    def a(self, s: Tensor) -> Tensor:
        return (self.beta_min + (self.beta_max - self.beta_min) * s) / 2

    def log_mu(self, s: Tensor) -> Tensor:
        return -s * (self.beta_min / 2 + (self.beta_max - self.beta_min) * s / 4)


@dataclass(frozen=True)
class SL(Process):
    """Straight line: ``mu = 1 - s``. ``sigma`` diverges at s = 1, which no estimator may touch."""

    kappa: float = 0.1
    s_max: float = 1 - 1e-5

    def a(self, s: Tensor) -> Tensor:
        return 1 / (1 - s)

    def log_mu(self, s: Tensor) -> Tensor:
        return torch.log1p(-s)


PROCESSES: dict[str, Process] = {"vp": VP(), "vpx": VP(kappa=0.1), "sl": SL()}
