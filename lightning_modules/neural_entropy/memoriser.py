"""The network that stores its training set: the exact score of N points, in closed form.

It needs no training, and it is the control of every law S_NN(N): on its own points the memoriser's
entropy falls by one nat per e-fold of N, so that a rise with N is never storage point by point.
"""

import math

from lightning_modules.neural_entropy.estimators import kl_to_gaussian
from lightning_modules.neural_entropy.processes import Process

import torch
from torch import Tensor

__all__ = ["Memoriser", "memorised_entropy"]

_LOGITS = 1 << 24  # logits held at once: 128 MiB in float64


class Memoriser:
    """``e*`` of the empirical law: the score of ``(1/N) sum_i N(mu x_i, std^2 I)``, less score_eq.

    A field like any network's: ``e(y, s)`` or ``e(y, s, c)`` (labels are ignored) with y (n, ...)
    and s (n,) or (1,), on the device of ``points``. Memory beyond one copy of the points is
    bounded. A thousand rows of MNIST against all 60,000 images take 2 s of one core in float32.

    Args:
        points: (N, ...), of any shape.
        dtype: of the products. Rounding moves an exponent by about ``eps |y| |x| / std^2``: at
            ``std = 1e-3`` and ``|x| = 10`` several nats in float32, 1e-8 in float64. Where kernels
            overlap at so small a std (few dimensions, many points) only float64 will do. Images
            lie so far apart that none do: for MNIST float32 gives the same entropy rates to 1e-6
            in less than half the time.

    Raises:
        ValueError: no points, or ``y`` of another shape than theirs.
    """

    def __init__(
        self, process: Process, points: Tensor, dtype: torch.dtype = torch.float64
    ) -> None:
        if not len(points):
            raise ValueError("a memoriser needs at least one point")
        self.process, self.shape = process, points.shape[1:]
        x = points.to(dtype).flatten(1)
        # centred, so that less cancels in the exponents; mu (y.x - mu |x|^2 / 2) in one product
        self.centre = x.mean(0)
        x = x - self.centre
        self.keys = torch.cat([x, -x.square().sum(1, keepdim=True) / 2], 1)
        self.x = self.keys[:, :-1]

    def __call__(self, y: Tensor, s: Tensor, c: Tensor | None = None) -> Tensor:
        if y.shape[1:] != self.shape:
            raise ValueError(
                f"y has rows of shape {tuple(y.shape[1:])}, the points {tuple(self.shape)}"
            )
        s = s.double().expand(len(y))[:, None]
        rows = max(1, _LOGITS // len(self.x))
        parts = zip(y.flatten(1).split(rows), s.split(rows), strict=True)
        return torch.cat([self._field(*part) for part in parts]).to(y.dtype).reshape(y.shape)

    def _field(self, y: Tensor, s: Tensor) -> Tensor:
        mu, std = (v.to(self.x.dtype) for v in (self.process.mu(s), self.process.std(s)))
        y = y.to(self.x.dtype)
        offset = y - mu * self.centre
        # log N(y; mu x_i, std^2 I) up to a constant of the row
        logits = torch.cat([offset, mu], 1) @ self.keys.T
        # the row's largest is taken off first: multiplied by mu / std^2 it would leave no digits
        share = (logits.sub_(logits.amax(1, keepdim=True)).mul_(mu / std.square())).softmax(1)
        # at small std nearly every share underflows to zero, and so does the product's cost
        held = share.any(0)
        mean = share[:, held] @ self.x[held] if not held.all() else share @ self.x
        return (mu * mean - offset) / std.square() - self.process.score_eq(y)


def memorised_entropy(process: Process, points: Tensor, eps: float) -> float:
    """``int sigma^2/2 E |e*|^2 ds`` over [eps, 1] of the memoriser of points (N, ...), in nats.

    The expectation is over the diffused points themselves, so this is the drop in KL divergence
    ``KL(p_eps || p_eq) - KL(p_1 || p_eq)``. The entropy of ``p_eps`` supposes that the N kernels
    do not overlap at eps (where they do, the result is too small), and ``p_1`` is taken as the
    Gaussian of its first two moments: what that leaves out is of third order in
    ``mu(1)^2 / kappa^2``. One nat less for each e-fold of N, at equal moments.
    """
    lo, one = (torch.tensor(v, dtype=torch.float64) for v in (eps, 1.0))
    x = points.flatten(1)
    n, dim = x.shape
    mean = x.mean(0)
    rest = x - mean
    covariance = (rest.T @ rest / n).double()
    centre = float(mean.double().square().sum())
    square = centre + float(covariance.trace())

    def moment(s: Tensor) -> float:
        return float(process.mu(s) ** 2) * square + dim * float(process.std(s) ** 2)

    gaussian = dim / 2 * math.log(2 * math.pi * math.e)
    at_eps = math.log(n) + gaussian + dim * float(process.std(lo).log())
    spread = process.mu(one) ** 2 * covariance
    spread.diagonal().add_(process.std(one) ** 2)
    at_one = gaussian + float(torch.linalg.slogdet(spread).logabsdet) / 2
    return kl_to_gaussian(at_eps, moment(lo), dim, process.kappa) - kl_to_gaussian(
        at_one, moment(one), dim, process.kappa
    )
