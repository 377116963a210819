"""What ne-density, ne-uncertainty and ne-score-matching measure on a cell.

All three hold a network, or nothing at all, against the exact law: its log-density, the transport
that its diffusion performs, and its score.
"""

import math
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from typing import Any

from datamodules import GaussianMixture, MixtureData
from lightning_modules import NeuralEntropy
from lightning_modules.neural_entropy import SL, VP, Process
from lightning_modules.neural_entropy.estimators import (
    Window,
    entropy_curves,
    kl_to_gaussian,
    log_prob_bound,
    score_integral,
)
from lightning_modules.neural_entropy.score_matching import departure, score_matching_excess
from lightning_modules.neural_entropy.speed_limit import (
    SpeedLimit,
    best_kappa,
    diffusion_time,
    path_length,
    wasserstein2,
    wasserstein2_at_least,
    wasserstein2_mixtures,
)
from lightning_modules.randomness import step_generator

import numpy as np
import torch
from torch import Tensor

from reproduce.neural_entropy.evaluators import (
    Field,
    _is_exact,
    _points,
    _total,
    exact_field,
    in_double,
)

__all__ = ["density", "score_matching", "speed"]


# ---------------------------------------------------------------------- log-densities
def density(model: NeuralEntropy, data: MixtureData) -> dict[str, Any]:
    """True log-densities beside the bound with e* and with e_theta, and the error of a throw.

    Both fields see the same draws, which are the seed's own: seeds differ in training and noise.
    """
    process, law = model.process, data.density.to(model.device)
    n = min(1000, len(data.x_eval) // 2)  # 1000 points with 1000 throws each at tier small
    x = data.x_eval[:n].to(model.device).double()
    truth = law.log_prob(x).cpu()
    found: dict[str, Any] = {"truth": truth.float().numpy()}
    for name, field in (("_exact", exact_field(process, law)), ("", in_double(model))):
        rng = step_generator(model.seed, "density", device=x.device)
        lower = log_prob_bound(process, field, x, throws=n, generator=rng)
        gap = truth - lower
        found |= {
            f"gap{name}": float(gap.mean()),
            f"gap{name}_se": float(gap.std() / n**0.5),
            f"correlation{name}": float(torch.stack([truth, lower]).corrcoef()[0, 1]),
            f"estimate{name}": lower.float().numpy(),
        }
    return found | _error_of_throws(model, x[: n // 10])


def _error_of_throws(model: NeuralEntropy, x: Tensor, repeats: int = 8) -> dict[str, Any]:
    """Spread of repeated estimates of one point, by how many throws make an estimate."""
    rng = step_generator(model.seed, "density, repeated", device=x.device)
    throws = [16, 64, 256, 1024] if len(x) >= 100 else [16, 64, 256]
    errors = []
    for number in throws:
        each = log_prob_bound(model.process, in_double(model), x.repeat(repeats, 1), number, rng)
        errors.append(float(each.reshape(repeats, -1).var(0).mean().sqrt()))
    slope = np.polyfit(np.log(throws), np.log(errors), 1)[0]
    return {"throws": throws, "error": errors, "error_slope": float(slope)}


# ---------------------------------------------------------------------- the speed limit
_NODES = {1: 160, 2: 30, 3: 8}  # Gauss-Hermite an axis: scores are smoother than log-densities


def _grid(law: GaussianMixture) -> Callable[[GaussianMixture], tuple[Tensor, Tensor]]:
    if law.dim in _NODES:
        return lambda p: p.nodes(_NODES[p.dim])
    return _points(law, 5000, "speed")


def speed(model: NeuralEntropy, data: MixtureData) -> dict[str, float]:
    """The chain ``W2 <= length <= sqrt(S_tot int sigma^2/2)`` of a process, without its network.

    In one dimension W2 is exact. Beyond, ``W2`` is that of 1000 samples, as a rule too large, and
    the chain takes ``W2_at_least``, a lower bound. Up to s = 1, or where SL is cut off.
    """
    return _speed(data.mixture, model.process)


@cache  # the same for every seed
def _speed(mixture: str, process: Process) -> dict[str, float]:
    law = GaussianMixture.named(mixture)
    grid = _grid(law)
    end = torch.tensor(process.s_max, dtype=torch.float64)
    last = law.diffused(process.mu(end), process.std(end))
    if law.dim == 1:
        w2 = at_least = wasserstein2_mixtures(law, last)
    else:
        rng = step_generator(0, "speed, samples")
        w2 = wasserstein2(law.sample(1000, rng), last.sample(1000, rng))
        at_least = wasserstein2_at_least(law, last)
    window = Window.whole(64, process.s_max)
    chain = SpeedLimit(
        w2=at_least,
        length=path_length(process, law, grid, window),
        time=diffusion_time(process, hi=process.s_max),
        total=_total(mixture, process)[0],
    )
    y, mass = grid(last)
    entropy = -float(mass @ last.log_prob(y))
    left = kl_to_gaussian(entropy, last.second_moment(), law.dim, process.kappa)
    # SL leaves nothing, so its S_tot over [0, 1] is KL(p_d || p_eq)
    endless, endless_se = _total(mixture, SL(kappa=process.kappa))
    return {
        "W2": w2,
        "W2_at_least": at_least,
        "length": chain.length,
        "time": chain.time,
        "lower_bound": chain.lower_bound,
        "tightness": chain.total / chain.lower_bound,
        "straightness": chain.straightness,
        "slack_length": chain.length / at_least - 1,
        "slack_entropy": math.sqrt(chain.total * chain.time) / chain.length - 1,
        "S_endless": score_integral(process, law, grid, window)[0] + left,
        "KL_eq": endless,
        "KL_eq_se": 0.0 if _is_exact(law) else endless_se,
        "best_kappa2": best_kappa(law) ** 2,
    }


# ---------------------------------------------------------------------- the score
class _Bare(VP):
    """VP measured from no equilibrium: its score integral is of the whole score, S_SM."""

    def score_eq(self, y: Tensor) -> Tensor:
        return torch.zeros_like(y)


def score_matching(model: NeuralEntropy, data: MixtureData) -> dict[str, float]:
    """S_SM beside S_tot, exactly and of the network; a zero network has no numbers of its own."""
    exact = _exact_score(data.mixture, model.process)
    return exact | _network(model, data, exact["DU"])


@cache  # the same for every seed
def _exact_score(mixture: str, process: Process) -> dict[str, float]:
    law = GaussianMixture.named(mixture)
    sure, (total, total_se) = _is_exact(law), _total(mixture, process)
    excess = score_matching_excess(process, law.second_moment(), law.dim)
    bare = _Bare(**asdict(process))
    rule = _points(law, 20_000, "score matching, score")
    by_score, by_score_se = score_integral(bare, law, rule, Window.whole(48))
    clock = -law.dim * float(process.log_mu(torch.ones((), dtype=torch.float64)))
    rng = step_generator(0, "score matching, draws")
    drawn = entropy_curves(
        process, departure(process, exact_field(process, law)), law.sample(20_000, rng),
        Window.exact(48), rng,
    ).integral("neural")  # fmt: skip
    return {
        "S_tot": total,
        "S_tot_se": 0.0 if sure else total_se,
        "S_SM_exact": total + excess,
        "S_SM_err": by_score - total - excess,
        "S_SM_err_se": 0.0 if sure else math.hypot(by_score_se, total_se),
        "excess": excess,
        "DU": clock,
        "S_SM_exact_over_DU": (total + excess) / clock,
        "S_SM_drawn_over_DU": drawn[0] / clock,
    }


def _network(model: NeuralEntropy, data: MixtureData, clock: float) -> dict[str, float]:
    """S_NN of e_theta and S_SM of the surrogate score, on the same draws."""
    process, law, x = model.process, data.density.to(model.device), data.x_eval.to(model.device)

    def curves(field: Field) -> Any:
        rng = step_generator(0, "score matching, network", device=x.device)
        return entropy_curves(process, field, x, Window.exact(64), rng, law)

    own = curves(model)
    if not own.neural.any():
        return {}
    stored, stored_se = own.integral("neural")
    score, score_se = curves(departure(process, model)).integral("neural")
    same = own.integral("total")[0]
    return {
        "S_NN": stored,
        "S_NN_se": stored_se,
        "S_SM": score,
        "S_SM_se": score_se,
        "S_SM_over_DU": score / clock,
        **({"stored": stored / same} if same > 1e-6 else {}),  # p_d = p_eq has none to store
    }
