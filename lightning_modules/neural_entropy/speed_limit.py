"""The speed limit: transport over a distance in a given time costs at least so much entropy.

``W2(p_d, p_T) <= int sqrt(E |v|^2) ds <= sqrt(S_tot int sigma^2/2 ds)`` for the velocity
``v = b_+ - sigma^2/2 score`` of the probability flow, hence ``S_tot >= W2^2 / int sigma^2/2 ds``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning_modules.neural_entropy.estimators import Window, score_integral
from lightning_modules.neural_entropy.processes import Process

import torch
from torch import Tensor

__all__ = [
    "SpeedLimit",
    "best_kappa",
    "diffusion_time",
    "path_length",
    "wasserstein2",
    "wasserstein2_at_least",
    "wasserstein2_mixtures",
]


def wasserstein2(x: Tensor, y: Tensor, limit: int = 1000) -> float:
    """W2 between two samples (n, D) of equal size, each row of equal weight.

    Exact for these samples: by sorting for D = 1, by optimal assignment of the first ``limit``
    rows for D > 1 (cubic in their number). As an estimate of the laws' distance it is biased up,
    for D > 1 by much: two samples of one law lie about ``n^(-1/D)`` widths apart. It may therefore
    exceed the path's length, which the laws' distance cannot: hold ``wasserstein2_at_least``
    against a bound.

    Raises:
        ValueError: the samples differ in shape.
    """
    if x.shape != y.shape or x.dim() != 2:
        raise ValueError(f"two samples (n, D) of one shape, not {(*x.shape,)} and {(*y.shape,)}")
    x, y = x.double(), y.double()
    if x.shape[1] == 1:
        return float((x.sort(0).values - y.sort(0).values).square().mean().sqrt())
    from scipy.optimize import linear_sum_assignment

    # |x - y|^2 without a Gram product: near pairs decide, and would lose their digits in it
    cost = torch.cdist(x[:limit], y[:limit], compute_mode="donot_use_mm_for_euclid_dist").square()
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return float(cost[rows, columns].mean().sqrt())


def wasserstein2_at_least(p: Any, q: Any) -> float:
    """A lower bound on W2 between two mixtures of any dimension (``weights, means, stds``).

    The distance between the Gaussians of the same means and covariances (Gelbrich's bound), equal
    to W2 where one law is an affine image of the other.
    """
    (a, first), (b, second) = _moments(p), _moments(q)
    half = _root(first)
    cross = float(_root(half @ second @ half).trace())
    spread = float(first.trace() + second.trace()) - 2 * cross
    return math.sqrt(max(0.0, float((a - b).square().sum()) + spread))


def _moments(p: Any) -> tuple[Tensor, Tensor]:
    mean = p.weights @ p.means
    rest = p.means - mean
    within = (p.weights @ p.stds.square()) * torch.eye(p.dim, dtype=mean.dtype)
    return mean, (p.weights * rest.T) @ rest + within


def _root(a: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(a)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def wasserstein2_mixtures(p: Any, q: Any, n: int = 4000) -> float:
    """W2 between two one-dimensional Gaussian mixtures (``weights, means, stds``).

    The monotone map between quantiles moves ``n`` points of a trapezoidal rule over p, which
    leaves no sampling error and, for well resolved mixtures, under 1e-7 of quadrature.

    Raises:
        ValueError: not one-dimensional.
    """
    if p.dim != 1 or q.dim != 1:
        raise ValueError("quantiles order one dimension only: use wasserstein2 on samples")
    # the sizes of both tails are compared: near one, a probability has no digits left
    x = torch.linspace(*_support(p), n, dtype=torch.float64)
    side = torch.where(_tail(p, x, 1.0) > 0.5, -1.0, 1.0).double()
    want = _tail(p, x, side)
    lo, hi = (torch.full_like(x, end) for end in _support(q))
    for _ in range(60):  # bisection to the last digit
        middle = (lo + hi) / 2
        below = side * (_tail(q, middle, side) - want) < 0
        lo, hi = torch.where(below, middle, lo), torch.where(below, hi, middle)
    mass = p.log_prob(x[:, None]).exp()
    return math.sqrt(float(torch.trapezoid(mass * (x - (lo + hi) / 2).square(), x)))


def _support(p: Any) -> tuple[float, float]:
    """Where a one-dimensional mixture has all its mass but 1e-30."""
    reach = 12 * p.stds
    return float((p.means[:, 0] - reach).min()), float((p.means[:, 0] + reach).max())


def _tail(p: Any, x: Tensor, side: Tensor | float) -> Tensor:
    """``P(X <= x)``, or ``P(X >= x)`` where ``side`` is -1."""
    side = torch.as_tensor(side, dtype=x.dtype)[..., None]
    return torch.special.ndtr(side * (x[:, None] - p.means[:, 0]) / p.stds) @ p.weights


def path_length(
    process: Process,
    density: Any,
    points: Callable[[Any], tuple[Tensor, Tensor]],
    window: Window,
) -> float:
    """``int sqrt(E |v|^2) ds = int sqrt(sigma^2/2 rate) ds``, the way p_s goes in W2.

    ``density`` and ``points`` as in ``score_integral``. The length depends on the way alone, not
    on the clock: VP of any beta and the same kappa have the same.
    """
    length = 0.0
    for s, w in zip(window.s, window.w, strict=True):
        instant = Window(s[None], torch.ones(1, dtype=s.dtype))
        rate, _ = score_integral(process, density, points, instant)
        length += float(w) * math.sqrt(float(process.sigma2(s)) / 2 * rate)
    return length


def diffusion_time(process: Process, lo: float = 0.0, hi: float = 1.0) -> float:
    """``int_lo^hi sigma^2/2 ds = kappa^2 (U(hi) - U(lo))`` with ``U = -log mu``."""
    log_mu = process.log_mu(torch.tensor([lo, hi], dtype=torch.float64))
    return process.kappa**2 * float(log_mu[0] - log_mu[1])


def best_kappa(density: Any) -> float:
    """The kappa whose equilibrium N(0, kappa^2 I) is nearest to the data: ``E |x|^2 / D``, rooted.

    It minimises ``KL(p_d || p_eq)``, and with it S_tot of an endless diffusion.
    """
    return math.sqrt(density.second_moment() / density.dim)


@dataclass(frozen=True)
class SpeedLimit:
    """The terms of the chain ``w2 <= length <= sqrt(total * time)``.

    ``w2`` and ``length`` in units of the data, ``time`` = int sigma^2/2 ds in their square,
    ``total`` = S_tot in nats.
    """

    w2: float
    length: float
    time: float
    total: float

    @property
    def lower_bound(self) -> float:
        """The least entropy, in nats, that moves so far in so much time."""
        return self.w2**2 / self.time

    @property
    def straightness(self) -> float:
        """In [0, 1]: one for a geodesic."""
        return self.w2 / self.length

    def holds(self, tolerance: float = 0.0) -> bool:
        """Whether the chain does, up to a relative ``tolerance`` for errors of quadrature."""
        most = math.sqrt(self.total * self.time)
        return self.w2 <= self.length * (1 + tolerance) and self.length <= most * (1 + tolerance)
