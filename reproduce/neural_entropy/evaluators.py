"""What is measured on a cell: (model, datamodule) -> numbers in nats, and curves.

Evaluation points and noise have fixed keys, as in the paper: every model is scored on the same
draws, so differences between models are not differences between draws.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

from datamodules import GaussianMixture, MixtureData
from lightning_modules import NeuralEntropy
from lightning_modules.neural_entropy import PROCESSES, Process
from lightning_modules.neural_entropy.estimators import (
    EntropyCurves,
    Window,
    entropy_curves,
    entropy_drop,
    log_prob_bound,
    score_integral,
)
from lightning_modules.randomness import step_generator

import torch
from torch import Tensor

__all__ = ["analytic", "bound", "entropy", "profile", "stored"]

Field = Callable[[Tensor, Tensor], Tensor]

_QUADRATURE = {1: 160, 2: 80, 3: 24}  # Gauss-Hermite nodes an axis, where that is cheap and exact
_MONTE_CARLO = 200_000


def _points(density: GaussianMixture, n: int, stream: str, seed: int = 0):
    """A rule ``density -> (points, weights)``: quadrature for small laws, else a sample."""
    rng = step_generator(seed, stream)

    def rule(p: GaussianMixture) -> tuple[Tensor, Tensor]:
        if _is_exact(density):
            return p.nodes(_QUADRATURE[p.dim])
        return p.sample(n, rng), torch.full((n,), 1 / n, dtype=torch.float64)

    return rule


def _is_exact(density: GaussianMixture) -> bool:
    """Quadrature reaches 1e-6: in one and two dimensions, and for a single Gaussian."""
    return density.dim <= 2 or len(density.weights) == 1


def exact_field(process: Process, density: GaussianMixture) -> Field:
    """e*, the departure of the exact score from equilibrium."""

    def field(y: Tensor, s: Tensor) -> Tensor:
        return density.diffused(process.mu(s), process.std(s)).score(y) - process.score_eq(y)

    return field


def in_double(model: NeuralEntropy) -> Field:
    """e_theta for points in double precision: the draws are then those of the exact field."""

    def field(y: Tensor, s: Tensor) -> Tensor:
        at = (v.to(model.device).float() for v in (y, s))
        return model(*at).double().to(y.device)

    return field


@cache
def _total(mixture: str, process: Process) -> tuple[float, float]:
    """``S_tot`` of a named mixture over [0, 1] as a KL drop, and its standard error."""
    density = GaussianMixture.named(mixture)
    return entropy_drop(process, density, _points(density, _MONTE_CARLO, f"total {mixture}"))


# ---------------------------------------------------------------------- without training
def analytic(model: NeuralEntropy, data: MixtureData) -> dict[str, Any]:
    """S_tot by both definitions, its course in time, and inequality (8) for known networks."""
    process, density, n = model.process, data.density, len(data.x_eval)
    rule = _points(density, n, "analytic", model.seed)
    by_kl, by_kl_se = entropy_drop(process, density, rule)
    few = _points(density, max(1000, n // 20), "analytic, score", model.seed)
    by_score, by_score_se = score_integral(process, density, few, Window.whole())
    exact = _is_exact(density)

    s = torch.linspace(0.05, 1, 20, dtype=torch.float64).tolist()
    course = [entropy_drop(process, density, rule, hi)[0] for hi in s]
    return {
        "S_tot": by_kl,
        "S_tot_se": 0.0 if exact else by_kl_se,
        "S_score": by_score,
        "rel_err": (by_score - by_kl) / by_kl,
        "rel_err_se": 0.0 if exact else math.hypot(by_kl_se, by_score_se) / by_kl,
        "min_increment": min(b - a for a, b in zip([0.0, *course], course, strict=False)),
        "s": s,
        "S_tot_until_s": course,
        **(_remainder(density, by_score) if process == PROCESSES["vpx"] else {}),
        **_inequality(model, data),
    }


def _remainder(density: GaussianMixture, vpx_by_score: float) -> dict[str, float]:
    """What VPx leaves unfinished, and how far SL's surplus in score integrals is from it."""
    vpx, end = PROCESSES["vpx"], torch.tensor(1.0, dtype=torch.float64)
    left = _kl_to_start(density.diffused(vpx.mu(end), vpx.std(end)), vpx.kappa)
    if not _is_exact(density):
        return {"remainder": left}
    rule = _points(density, 0, "quadrature")
    sl_by_score, _ = score_integral(PROCESSES["sl"], density, rule, Window.whole())
    return {"remainder": left, "remainder_err": sl_by_score - vpx_by_score - left}


def _kl_to_start(p_end: GaussianMixture, std: float) -> float:
    """``KL(p_T || N(0, std^2 I))`` by the log-ratio itself, whose spread is that of a small KL."""
    if _is_exact(p_end):
        y, mass = p_end.nodes(_QUADRATURE[p_end.dim])
    else:
        y = p_end.sample(_MONTE_CARLO, step_generator(0, "end"))
        mass = torch.full((len(y),), 1 / len(y), dtype=torch.float64)
    log_start = -y.square().sum(-1) / (2 * std**2) - p_end.dim * (
        math.log(std) + 0.5 * math.log(2 * math.pi)
    )
    return float((mass * (p_end.log_prob(y) - log_start)).sum())


def _inequality(model: NeuralEntropy, data: MixtureData) -> dict[str, float]:
    """Slack of both sides of inequality (8), the least over e*, c e*, and this random network."""
    process, density = model.process, data.density
    x = data.x_eval[:1000].double()

    exact, network = exact_field(process, density), in_double(model)
    fields = {c: (lambda y, s, c=c: c * exact(y, s)) for c in (0.5, 1.0, 1.2)}
    slacks, scaled = [], 0.0
    for c, field in [*fields.items(), (None, network)]:
        rng = step_generator(0, "inequality")
        curves = entropy_curves(process, field, x, Window.exact(48), rng, density)
        slacks.append(_slack(curves))
        if c is not None:
            stored, total, loss = (curves.integral(k)[0] for k in ("neural", "total", "match"))
            scaled = max(scaled, abs(loss / total - (1 - c) ** 2), abs(stored / total - c**2))
    return {
        "ineq_low": min(low for low, _ in slacks),
        "ineq_high": min(high for _, high in slacks),
        "scaled_err": scaled,
    }


def _slack(curves: EntropyCurves) -> tuple[float, float]:
    """Room in ``(sqrt S_tot -+ sqrt S_NN)^2``, below and above L_EM, in units of S_tot."""
    stored, total, loss = (curves.integral(k)[0] for k in ("neural", "total", "match"))
    low = (math.sqrt(total) - math.sqrt(stored)) ** 2
    high = (math.sqrt(total) + math.sqrt(stored)) ** 2
    return (loss - low) / total, (high - loss) / total


# ---------------------------------------------------------------------- trained networks
def entropy(model: NeuralEntropy, data: MixtureData) -> dict[str, Any]:
    """S_NN over the paper's window and the exact one, with S_tot and L_EM on the same draws."""
    process, density = model.process, data.density.to(model.device)
    x = data.x_eval.to(model.device)

    def curves(window: Window) -> EntropyCurves:
        rng = step_generator(0, "entropy", device=x.device)
        return entropy_curves(process, model, x, window, rng, density)

    paper, exact = curves(Window.paper()), curves(Window.exact(64))
    stored, stored_se = paper.integral("neural")
    same, _ = paper.integral("total")
    loss, loss_se = exact.integral("match")
    stored_exact, same_exact = exact.integral("neural")[0], exact.integral("total")[0]
    low, high = (min(a, b) for a, b in zip(_slack(paper), _slack(exact), strict=True))
    return {
        "S_NN": stored,
        "S_NN_se": stored_se,
        "S_NN_exact": stored_exact,
        "stored": stored / same,
        "stored_exact": stored_exact / same_exact,
        "missing": same_exact - stored_exact,
        "L_EM": loss,
        "L_EM_se": loss_se,
        "cross": same_exact - stored_exact - loss,
        "ineq_low": low,
        "ineq_high": high,
        **_totals(data.mixture, process),
    }


def stored(model: NeuralEntropy, data: MixtureData) -> dict[str, Any]:
    """S_NN, S_tot and their rates over the paper's window alone, all from the same draws."""
    process, density = model.process, data.density.to(model.device)
    x = data.x_eval.to(model.device)
    rng = step_generator(0, "entropy", device=x.device)
    curves = entropy_curves(process, model, x, Window.paper(), rng, density)
    neural, neural_se = curves.integral("neural")
    low, high = _slack(curves)
    return {
        "S_NN": neural,
        "S_NN_se": neural_se,
        "stored": neural / curves.integral("total")[0],
        "ineq_low": low,
        "ineq_high": high,
        **_totals(data.mixture, process),
        **_rates(curves),
    }


def _totals(mixture: str, process: Process) -> dict[str, float]:
    """S_tot over [0, 1], and over that of VP and of SL."""
    total, error = _total(mixture, process)
    return {
        "S_tot": total,
        "S_tot_se": error,
        "S_tot_over_vp": total / _total(mixture, PROCESSES["vp"])[0],
        "S_tot_over_sl": total / _total(mixture, PROCESSES["sl"])[0],
    }


# ---------------------------------------------------------------------- the KL bound
def bound(model: NeuralEntropy, data: MixtureData) -> dict[str, float]:
    """Upper bound on ``KL(p_d || p_theta)`` from held-out points, and what it should equal.

    ``KL_bound = L_EM + KL(p_T || p_0)`` in expectation: two estimators that share held-out points
    but no noise.
    """
    process, density = model.process, data.density
    n = len(data.x_eval)  # 500 throws for 1000 points at tier small
    x = data.x_eval[: min(1000, n // 2)].to(model.device)
    rng = step_generator(0, "bound", device=x.device)
    lower = log_prob_bound(process, model, x, throws=min(1000, n // 4), generator=rng)
    each = density.log_prob(x.double().cpu()) - lower
    end = torch.tensor(1.0, dtype=torch.float64)
    p_end = density.diffused(process.mu(end), process.std(end))
    return {
        "KL_bound": float(each.mean()),
        "KL_bound_se": float(each.std() / len(each) ** 0.5),
        "KL_start": _kl_to_start(p_end, process.prior_std()),
    }


# ---------------------------------------------------------------------- profiles
def profile(model: NeuralEntropy, data: MixtureData) -> dict[str, Any]:
    """Entropy rates of the network and of the exact e* on the paper's grid, and their peaks."""
    process, density = model.process, data.density.to(model.device)
    x = data.x_eval.to(model.device)
    rng = step_generator(0, "profile", device=x.device)
    window = Window.paper(drop_first=False)
    return _rates(entropy_curves(process, model, x, window, rng, density))


def _rates(curves: EntropyCurves) -> dict[str, Any]:
    """Rates over time, where they peak, and how far the network's is from the exact one."""
    s, neural, total = curves.window.s, curves.neural, curves.total
    assert total is not None
    gap = (neural - total).abs() / total

    def at(values: Tensor, when: float) -> float:
        return float(values[int((s - when).abs().argmin())])

    return {
        "s_peak": float(s[int(neural.argmax())]),
        "peak": float(neural.max()),
        "s_peak_exact": float(s[int(total.argmax())]),
        "peak_exact": float(total.max()),
        "gap_at_0.2": at(gap, 0.2),
        "gap_at_0.6": at(gap, 0.6),
        "s": s.tolist(),
        "rate": neural.tolist(),
        "rate_exact": total.tolist(),
    }
