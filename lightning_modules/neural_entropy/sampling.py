"""Samples of a trained network: the probability-flow ODE and the reverse SDE.

For a Gaussian quasi-invariant density the forward drift drops out of the flow: as
``score_eq = 2 b_+ / sigma^2``, what is left of ``-b_+ + sigma^2/2 (score_eq + e)`` is
``sigma^2/2 e``, and a network that stores nothing moves nothing. In the log signal-to-noise ratio
``l = log(mu / std)``, which rises from noise to data, all processes have the same flow,
``dx/dl = std^2 e(x, s)``; fixed steps are equal steps of ``l``. They are log-spaced in s near the
data and in 1 - s where SL's sigma diverges.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lightning_modules.neural_entropy.processes import Process

import torch
from torch import Tensor

__all__ = ["Sampled", "probability_flow", "reverse_sde", "start"]

Field = Callable[..., Tensor]


@dataclass(frozen=True)
class Sampled:
    """Samples ``x`` (n, ...) and how often the network was called for them, on all at once."""

    x: Tensor
    evaluations: int


def start(process: Process, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """A draw of p_0 = N(0, std(1)^2 I), float32, on the generator's device."""
    z = torch.randn(tuple(shape), generator=generator, device=generator.device)
    return process.prior_std() * z


@torch.no_grad()
def probability_flow(
    process: Process,
    e_theta: Field,
    x0: Tensor,
    *,
    labels: Tensor | None = None,
    solver: str = "rk45",
    rtol: float = 1e-3,
    atol: float = 1e-6,
    steps: int = 100,
    until: float = 1e-3,
) -> Sampled:
    """Carry ``x0`` (n, ...) from noise to data along ``dx/dt = sigma^2/2 e_theta``, ``t = 1 - s``.

    Args:
        e_theta: called as ``(y, s)``, or ``(y, s, labels)`` if there are any, with the whole batch
            in the dtype and on the device of ``x0`` and one time s (1,).
        x0: a draw of p_0, taken for one at s = 1, or at the process's last time.
        labels: classes (n,), int64.
        solver: ``rk45``, SciPy's adaptive one, as the authors (state in float64; tolerances are
            for the root mean square over the batch); ``heun`` or ``rk4`` for fixed steps, of
            order 2 and 4, with 2 and 4 evaluations each.
        rtol, atol: of ``rk45``, which alone looks at them.
        steps: of the fixed-step solvers.
        until: the time s at which the flow stops; the data are at s = 0.

    Raises:
        ValueError: unknown solver, no steps, or a time that is not between data and noise.
        ArithmeticError: (``rk45``) the network returned something that is not finite, or no step
            is small enough for the tolerances.
    """
    e = _on(x0, e_theta, labels)
    if solver == "rk45":
        return _adaptive(process, e, x0, _span(process, until), rtol, atol)
    if solver not in _STEPS:
        raise ValueError(f"unknown solver {solver!r}: choose rk45, {' or '.join(_STEPS)}")
    step, evaluations = _STEPS[solver]
    times, half = _times(process, until, 2 * steps)  # ends and middles of the steps
    s, std2 = times.tolist(), process.std(times).square().tolist()

    def slope(k: int, y: Tensor) -> Tensor:
        return std2[k] * e(y, s[k])

    x = x0
    for k in range(0, 2 * steps, 2):
        x = step(slope, k, x, 2 * half)
    return Sampled(x, evaluations * steps)


@torch.no_grad()
def reverse_sde(
    process: Process,
    e_theta: Field,
    x0: Tensor,
    generator: torch.Generator,
    *,
    labels: Tensor | None = None,
    solver: str = "heun",
    steps: int = 200,
    until: float = 1e-3,
) -> Sampled:
    """Carry ``x0`` from noise to data by ``dX = [b_+ + sigma^2 e_theta] dt + sigma dB``.

    Between two evaluations only e_theta is frozen. Decay and noise are those of the exact
    Ornstein-Uhlenbeck process, so that steps of any size leave p_eq as it is where e_theta is
    zero, and SL needs no care near s = 1, where a plain Euler-Maruyama step overshoots.

    Args:
        generator: of the noise, on the device of ``x0``.
        solver: ``euler`` (exponential Euler-Maruyama, weak order 1), or ``heun``, which repeats
            each step with the mean of e_theta at its two ends (weak order 2, two evaluations).

    The others are those of ``probability_flow``.

    Raises:
        ValueError: unknown solver, no steps, or a time that is not between data and noise.
    """
    if solver not in ("euler", "heun"):
        raise ValueError(f"unknown solver {solver!r}: choose euler or heun")
    e = _on(x0, e_theta, labels)
    times, _ = _times(process, until, steps)
    s, decay = times.tolist(), process.log_mu(times).diff().neg().tolist()  # -int a ds, below zero
    x = x0
    for k in range(steps):
        z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        spread = process.kappa * math.sqrt(-math.expm1(2 * decay[k]))
        gain = -2 * process.kappa**2 * math.expm1(decay[k])
        first = e(x, s[k])
        x = math.exp(decay[k]) * x + gain * first + spread * z
        if solver == "heun":
            x = x + gain / 2 * (e(x, s[k + 1]) - first)
    return Sampled(x, steps * (2 if solver == "heun" else 1))


def _on(x0: Tensor, e_theta: Field, labels: Tensor | None) -> Callable[[Tensor, float], Tensor]:
    """``e_theta`` at one time for all rows."""
    more = () if labels is None else (labels,)
    return lambda y, s: e_theta(y, torch.full((1,), s, dtype=x0.dtype, device=x0.device), *more)


# ----------------------------------------------------------------------------- times
def _span(process: Process, until: float) -> tuple[float, float]:
    first = min(1.0, process.s_max)
    if not 0 < until < first:
        raise ValueError(f"until must lie between 0 and {first}, not {until}")
    return first, until


def _log_snr(process: Process, s: Tensor) -> Tensor:
    return process.log_mu(s) - process.std(s).log()


def _times(process: Process, until: float, n: int) -> tuple[Tensor, float]:
    """Times (n + 1,), float64, from noise to ``until`` in equal steps of log(mu / std), and these.

    The process knows log(mu / std) at a time but not the time; halving finds it.
    """
    if n < 1:
        raise ValueError("steps must be at least 1")
    first, last = _span(process, until)
    ends = _log_snr(process, torch.tensor([first, last], dtype=torch.float64))
    wanted = torch.linspace(*ends.tolist(), n + 1, dtype=torch.float64)
    lo, hi = torch.full_like(wanted, last), torch.full_like(wanted, first)
    for _ in range(60):
        middle = (lo + hi) / 2
        early = _log_snr(process, middle) > wanted
        lo, hi = torch.where(early, middle, lo), torch.where(early, hi, middle)
    return (lo + hi) / 2, float(ends.diff()) / n


# ----------------------------------------------------------------------------- solvers
# A step begins at time k, has its middle at k + 1 and ends at k + 2.
def _heun(f: Callable[[int, Tensor], Tensor], k: int, x: Tensor, h: float) -> Tensor:
    k1 = f(k, x)
    k2 = f(k + 2, x + h * k1)
    return x + h / 2 * (k1 + k2)


def _rk4(f: Callable[[int, Tensor], Tensor], k: int, x: Tensor, h: float) -> Tensor:
    k1 = f(k, x)
    k2 = f(k + 1, x + h / 2 * k1)
    k3 = f(k + 1, x + h / 2 * k2)
    k4 = f(k + 2, x + h * k3)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


_STEPS = {"heun": (_heun, 2), "rk4": (_rk4, 4)}


def _adaptive(
    process: Process,
    e: Callable[[Tensor, float], Tensor],
    x0: Tensor,
    span: tuple[float, float],
    rtol: float,
    atol: float,
) -> Sampled:
    import numpy as np
    from scipy.integrate import solve_ivp

    def slope(s: float, flat: np.ndarray) -> np.ndarray:
        out = e(torch.from_numpy(flat).to(x0).reshape(x0.shape), s)
        out = out.cpu().double().numpy().ravel()
        if not np.isfinite(out).all():  # the solver would search for a smaller step for ever
            raise ArithmeticError(f"the network's output is not finite at s = {s:.5g}")
        half = float(process.sigma2(torch.tensor(s, dtype=torch.float64))) / 2
        return -half * out

    y0 = x0.cpu().double().numpy().ravel()
    found = solve_ivp(slope, span, y0, "RK45", span[1:], rtol=rtol, atol=atol)
    if not found.success:
        raise ArithmeticError(f"rk45 stopped at s = {found.t[-1]:.5g}: {found.message}")
    return Sampled(torch.from_numpy(found.y[:, -1]).to(x0).reshape(x0.shape), found.nfev)
