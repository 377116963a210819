"""Total entropy S_tot, neural entropy S_NN, and the bounds that tie them to a model's error.

Everything is in nats. A *window* is a set of times with integration weights; S_tot and S_NN are
only comparable over the same window. A *density* is any object with ``log_prob, score, diffused``
(and ``nodes`` or ``sample`` where stated); ``e_theta(y, s)``, or ``(y, s, c)`` with labels, is any
callable on points (n, ...) and times (n,), or (1,) where all share one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning_modules.neural_entropy.processes import Process

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "EntropyCurves",
    "Window",
    "entropy_curves",
    "entropy_drop",
    "entropy_in_strata",
    "kl_to_gaussian",
    "log_prob_bound",
    "score_integral",
    "shared_out",
]

Field = Callable[..., Tensor]


@dataclass(frozen=True)
class Window:
    """Times ``s`` (T,) and weights ``w`` (T,) with ``int f ds ~ sum_k w_k f(s_k)``; float64."""

    s: Tensor
    w: Tensor

    @staticmethod
    def paper(n_t: int = 100, drop_first: bool = True) -> "Window":
        """The authors' window: trapezoid on ``linspace(1e-5, 1, n_t)`` without its last point.

        They integrate S_tot from the first point but S_NN from the second, which costs about 2 %
        of S_tot for SL; ``drop_first`` chooses, and must be the same for both.
        """
        s = torch.linspace(1e-5, 1, n_t, dtype=torch.float64)[int(drop_first) : -1]
        half = s.diff() / 2
        return Window(
            s, torch.nn.functional.pad(half, (1, 0)) + torch.nn.functional.pad(half, (0, 1))
        )

    @staticmethod
    def exact(n: int = 96, lo: float = 1e-5, hi: float = 1 - 1e-5) -> "Window":
        """Gauss-Legendre in ``logit(s)``: dense at both ends, where SL's and images' rates lie."""
        t, w = _gauss_legendre(n, math.log(lo / (1 - lo)), math.log(hi / (1 - hi)))
        s = t.sigmoid()
        return Window(s, w * s * (1 - s))

    @staticmethod
    def whole(n: int = 96, hi: float = 1.0) -> "Window":
        """Gauss-Legendre on [0, hi], ends excluded: smooth exact rates, SL up to its limit."""
        return Window(*_gauss_legendre(n, 0.0, hi))


def _gauss_legendre(n: int, lo: float, hi: float) -> tuple[Tensor, Tensor]:
    t, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(n))
    return lo + (hi - lo) * (t + 1) / 2, w * (hi - lo) / 2


# ---------------------------------------------------------------- S_tot, twice, without a network
def kl_to_gaussian(entropy: float, second_moment: float, dim: int, std: float) -> float:
    """``KL(p || N(0, std^2 I))`` of a density with known entropy and ``E |x|^2``."""
    cross = dim / 2 * math.log(2 * math.pi * std**2) + second_moment / (2 * std**2)
    return cross - entropy


def _entropy(density: Any, points: Tensor, mass: Tensor) -> tuple[float, float]:
    """``H(p)`` and its standard error from weighted points of ``p`` (error: equal weights).

    The exact second moment serves as a control variate: for a near-Gaussian p nothing is left to
    chance.
    """
    variance = density.second_moment() / density.dim
    rest = density.log_prob(points) + points.square().sum(-1) / (2 * variance)
    mean = (mass * rest).sum()
    error = (mass * (rest - mean).square()).sum().sqrt() / len(rest) ** 0.5
    return density.dim / 2 - float(mean), float(error)


def entropy_drop(
    process: Process, density: Any, points: Callable[[Any], tuple[Tensor, Tensor]], hi: float = 1.0
) -> tuple[float, float]:
    """``S_tot`` over [0, hi] as a drop in KL divergence to p_eq (the entropy balance).

    ``KL(p_d || p_eq) - KL(p_hi || p_eq)``, whose second moments are exact. ``points(density)``
    gives points and weights of a density (quadrature nodes, or a sample with equal weights).

    Returns:
        S_tot in nats, and its standard error (meaningful for a sample only).
    """
    s = torch.tensor(hi, dtype=torch.float64)
    value, variance = 0.0, 0.0
    for sign, p in ((1, density), (-1, density.diffused(process.mu(s), process.std(s)))):
        entropy, error = _entropy(p, *points(p))
        value += sign * kl_to_gaussian(entropy, p.second_moment(), p.dim, process.kappa)
        variance += error**2
    return value, math.sqrt(variance)


def score_integral(
    process: Process,
    density: Any,
    points: Callable[[Any], tuple[Tensor, Tensor]],
    window: Window,
) -> tuple[float, float]:
    """``S_tot = int sigma^2/2 E |score_eq - score|^2 ds`` (the definition).

    Returns:
        S_tot over the window in nats, and its standard error (for samples, as if the points at
        different times were independent).
    """
    value, variance = 0.0, 0.0
    for s, w in zip(window.s, window.w, strict=True):
        p = density.diffused(process.mu(s), process.std(s))
        y, mass = points(p)
        square = (process.score_eq(y) - p.score(y)).square().sum(-1)
        mean = (mass * square).sum()
        scale = float(w * process.sigma2(s) / 2)
        value += scale * float(mean)
        variance += scale**2 * float((mass * (square - mean).square()).sum()) / len(y)
    return value, math.sqrt(variance)


# ------------------------------------------------------------------------- with a network
def _rows(x: Tensor) -> int:
    """Draws per network call: what stays in a core's cache, or what fills an accelerator."""
    least, most, numbers = (
        (32, 1 << 11, 1 << 17) if x.device.type == "cpu" else (256, 1 << 17, 1 << 24)
    )
    return min(most, max(least, numbers // x[0].numel()))


def _evaluate(
    e_theta: Field, y: Tensor, s: Tensor, labels: Tensor | None, rows: int
) -> Float[Tensor, "..."]:
    """``e_theta`` on ``y`` (n, ...), ``rows`` at a time; ``s`` is (n,), or (1,) for all."""
    parts = []
    for at in range(0, len(y), rows):
        here = slice(at, at + rows)
        c = () if labels is None else (labels[here],)
        parts.append(e_theta(y[here], s if len(s) == 1 else s[here], *c))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


@dataclass(frozen=True)
class EntropyCurves:
    """Entropy rates (T,) in nats per unit time, and each point's integral over the window (n,).

    ``neural`` is of ``|e_theta|^2``, ``total`` of ``|e*|^2`` and ``match`` of
    ``|e_theta - e*|^2``; the last two are None where no exact score is known. Means over points of
    ``*_each`` are S_NN, S_tot and L_EM.
    """

    window: Window
    neural: Tensor
    neural_each: Tensor
    total: Tensor | None = None
    total_each: Tensor | None = None
    match: Tensor | None = None
    match_each: Tensor | None = None

    def integral(self, name: str) -> tuple[float, float]:
        """Mean and standard error of ``name`` in {neural, total, match}, in nats."""
        each = getattr(self, f"{name}_each")
        return float(each.mean()), float(each.std() / len(each) ** 0.5)


@torch.no_grad()
def entropy_curves(
    process: Process,
    e_theta: Field,
    x: Tensor,
    window: Window,
    generator: torch.Generator,
    density: Any = None,
    rows: int | None = None,
    labels: Tensor | None = None,
) -> EntropyCurves:
    """Entropy rates of a network on points ``x`` (n, D), with one network evaluation per draw.

    At each time fresh noise diffuses every point, as in S_NN's definition. With a ``density`` the
    exact e* is evaluated on the same draws, so that differences have little noise and the reverse
    triangle inequality holds exactly, not only on average. Times are batched, ``rows`` draws a
    call where a time has fewer points; else points are, and the network gets their one time once.
    ``labels`` (n,) are a conditional network's.
    """
    n = len(x)
    rows = rows or _rows(x)
    per_call = max(1, rows // n)
    fields = ("neural", "total", "match") if density is not None else ("neural",)
    rate = {f: torch.zeros(len(window.s), dtype=torch.float64) for f in fields}
    each = {f: torch.zeros(n, dtype=torch.float64) for f in fields}
    for start in range(0, len(window.s), per_call):
        s = window.s[start : start + per_call].to(x.device)
        w = window.w[start : start + per_call].to(x.device)
        z = torch.randn((len(s), *x.shape), generator=generator, device=x.device, dtype=x.dtype)
        mu, std = (v.reshape(-1, *[1] * x.dim()) for v in (process.mu(s), process.std(s)))
        y = (mu * x + std * z).to(x.dtype)
        times = s.to(x.dtype) if n > rows else s.to(x.dtype).repeat_interleave(n)
        c = None if labels is None else labels.repeat(len(s))
        e = _evaluate(e_theta, y.flatten(0, 1), times, c, rows).unflatten(0, (-1, n))
        norms = {"neural": e.double().flatten(2).square().sum(-1)}
        if density is not None:
            p = density.diffused(process.mu(s)[:, None], process.std(s)[:, None])
            exact = p.score(y.double()) - process.score_eq(y.double())
            norms["total"] = exact.flatten(2).square().sum(-1)
            norms["match"] = (e.double() - exact).flatten(2).square().sum(-1)
        half = process.sigma2(s) / 2
        for f, norm in norms.items():
            rate[f][start : start + per_call] = (half * norm.mean(1)).cpu()
            each[f] += ((w * half)[:, None] * norm).sum(0).cpu()
    curves = {**rate, **{f"{f}_each": v for f, v in each.items()}}
    return EntropyCurves(window, **curves)


def shared_out(parts: int, n: int, generator: torch.Generator) -> Float[Tensor, "parts n"]:
    """Uniform numbers of [0, 1), one in each of n equal slices of every part, in random order."""
    device = generator.device
    u = torch.rand((2, parts, n), generator=generator, device=device, dtype=torch.float64)
    return (u[0].argsort(1) + u[1]) / n


@torch.no_grad()
def entropy_in_strata(
    process: Process,
    e_theta: Field,
    x: Tensor,
    strata: int,
    generator: torch.Generator,
    lo: float = 1e-5,
    hi: float = 1 - 1e-5,
    rows: int | None = None,
    labels: Tensor | None = None,
) -> EntropyCurves:
    """Entropy rates of a network over ``strata`` parts of [lo, hi], equal in ``logit(s)``.

    Each point has a random time of its own in each part, so the integral is unbiased whatever the
    rate does between them: a network that knows time by Fourier features of high frequency has a
    rate with ripples, which any fixed nodes sample askew. The points share each part out evenly
    (a Latin hypercube), so the standard error of ``integral``, which takes them for independent,
    is an upper bound. One network evaluation per draw. The window's times are the middles of the
    parts; ``neural`` is the mean rate in each.
    """
    n, ends = len(x), torch.tensor([lo, hi], dtype=torch.float64).logit()
    edges = torch.linspace(*ends.tolist(), strata + 1, dtype=torch.float64)
    window = Window(((edges[1:] + edges[:-1]) / 2).sigmoid(), edges.sigmoid().diff())
    width = float(ends.diff()) / strata
    parts = torch.zeros(strata, dtype=torch.float64)
    each = torch.zeros(n, dtype=torch.float64)
    rows = rows or _rows(x)
    per_call = max(1, rows // n)
    for first in range(0, strata, per_call):
        k = torch.arange(first, min(first + per_call, strata), device=x.device)
        u = shared_out(len(k), n, generator)
        s = (ends[0].item() + width * (k[:, None] + u)).sigmoid().flatten()
        z = torch.randn(
            (len(s), *x.shape[1:]), generator=generator, device=x.device, dtype=x.dtype
        )
        mu, std = (v.reshape(-1, *[1] * (x.dim() - 1)) for v in (process.mu(s), process.std(s)))
        y = (mu * x.repeat(len(k), *[1] * (x.dim() - 1)) + std * z).to(x.dtype)
        c = None if labels is None else labels.repeat(len(k))
        norm = _evaluate(e_theta, y, s.to(x.dtype), c, rows).double().flatten(1).square().sum(-1)
        mass = (width * s * (1 - s) * process.sigma2(s) / 2 * norm).reshape(len(k), n).cpu()
        parts[first : first + per_call] = mass.mean(1)
        each += mass.sum(0)
    return EntropyCurves(window, parts / window.w, each)


@torch.no_grad()
def log_prob_bound(
    process: Process,
    e_theta: Field,
    x: Tensor,
    throws: int,
    generator: torch.Generator,
    prior: str = "exact",
    rows: int | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    """Lower bound on ``log p_theta(x)`` in nats, (n,) for points ``x`` (n, D).

    ``throws`` Monte Carlo draws of (s, z) a point; times are stratified, one in each of ``throws``
    equal slices of [1e-5, 1 - 1e-5], which leaves the mean as it is. ``prior="official"`` takes
    the authors' constant for the boundary term, right where ``mu(1)`` is nearly zero. ``labels``
    (n,) are a conditional network's.
    """
    lo, hi = 1e-5, 1 - 1e-5
    n, dim = len(x), x[0].numel()
    p0 = process.prior_std()
    if prior == "official":
        s0 = dim / 2 * math.log(2 * math.pi * math.e * p0**2)
        start = torch.full((n,), -s0, dtype=torch.float64)
    else:
        end = torch.tensor(1.0, dtype=torch.float64)
        spread = process.mu(end) ** 2 * x.double().flatten(1).square().sum(-1).cpu() + dim * p0**2
        start = -dim / 2 * math.log(2 * math.pi * p0**2) - spread / (2 * p0**2)

    integral = torch.zeros(n, dtype=torch.float64)
    rows = rows or _rows(x)
    per_call = max(1, rows // n)
    for first in range(0, throws, per_call):
        k = torch.arange(first, min(first + per_call, throws), device=x.device)
        u = torch.rand((len(k), n), generator=generator, device=x.device, dtype=torch.float64)
        s = (lo + (hi - lo) * (k[:, None] + u) / throws).flatten()
        z = torch.randn(
            (len(s), *x.shape[1:]), generator=generator, device=x.device, dtype=x.dtype
        )
        mu, std, sigma2 = (
            v.reshape(-1, *[1] * (x.dim() - 1))
            for v in (process.mu(s), process.std(s), process.sigma2(s))
        )
        y = mu * x.repeat(len(k), *[1] * (x.dim() - 1)) + std * z
        c = None if labels is None else labels.repeat(len(k))
        e = _evaluate(e_theta, y.to(x.dtype), s.to(x.dtype), c, rows).double()
        half_drift = process.score_eq(y) / 2  # b_+ / sigma^2
        cost = sigma2 / 2 * (2 * half_drift + e).square() + sigma2 * (half_drift + e) * z / std
        integral += cost.flatten(1).sum(-1).reshape(len(k), n).sum(0).cpu()
    return start - (hi - lo) * integral / throws
