"""How samples are drawn, and what lies between images: (model, datamodule) -> calls, errors."""

import time
from typing import Any

from datamodules import ClassImages
from lightning_modules import SimFlow
from lightning_modules.flows import Noise
from lightning_modules.randomness import step_generator
from lightning_modules.simflow import Sampler
from lightning_modules.simflow.convergence import convergence_ranking, guessing_metric
from lightning_modules.simflow.sampling import Drawn, inverse

import torch
from torch import Tensor

from reproduce.evaluators.frechet import frechet_distance
from reproduce.simflow.ruler import ruler, tiles, unit

__all__ = ["WAYS", "alignment", "exactness", "interpolation", "sampling"]

# four ways, and Jacobi's stopped early
WAYS: dict[str, Sampler] = {
    "naive": Sampler("naive"),
    "cached": Sampler("cached"),
    "jacobi": Sampler("jacobi"),
    "jacobi_zero": Sampler("jacobi", guess="zero"),
    "gs_jacobi": Sampler("gs_jacobi", windows=4),
    "jacobi_early": Sampler("jacobi", tolerance=1e-3),
}
_BATCH, _TURNS, _CHOSEN, _JUDGED = 50, 3, 200, 1000
_PAIRS, _STEPS, _SHOWN = 50, 10, 3


@torch.no_grad()
def sampling(model: SimFlow, data: ClassImages) -> dict[str, float]:
    """Calls, errors and times of each way, on the same latents and labels.

    ``calls`` are of all blocks together, ``tokens`` those passed through them per sample,
    ``error`` the greatest distance of a token's value from the naive inverse's in units of its
    greatest one, ``ms`` a batch's time, the median of turns, ``speed`` the naive one's over it.
    ``fd_change`` is what the Frechet distance to the training images has more with windows than
    token by token, as a share of the latter. ``guess_z_k`` and ``guess_zero_k`` measure block k's
    two guesses, ``rank_k`` how slowly it converges, as a share of all.
    """
    device, grid = model.device, model.flow.shape
    noise = Noise(step_generator(0, "sampling", device=device))
    z = noise.normal((_BATCH, grid.tokens, grid.channels), model.shift)
    y = (torch.arange(_BATCH) % data.n_classes).to(device)
    drawn: dict[str, Drawn] = {}
    spent: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(_TURNS):
        for name, way in WAYS.items():
            begun = _now(device)
            drawn[name] = inverse(model.flow, z, y, way)
            spent[name].append(_now(device) - begun)
    exact = drawn["naive"].x
    found: dict[str, float] = {}
    median = {name: sorted(times)[len(times) // 2] for name, times in spent.items()}
    for name, one in drawn.items():
        found |= {
            f"calls_{name}": float(sum(one.calls)),
            f"tokens_{name}": float(sum(one.evaluated)),
            f"error_{name}": float((one.x - exact).abs().max() / exact.abs().max()),
            f"ms_{name}": 1000 * median[name],
            f"speed_{name}": median["naive"] / median[name],
        }
        found |= {f"calls_{name}_{k}": float(calls) for k, calls in enumerate(one.calls)}
    return found | _distance(model, data) | _metrics(model, data)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _distance(model: SimFlow, data: ClassImages) -> dict[str, float]:
    """How far samples drawn in windows are from those drawn token by token."""
    known, features = ruler(data), {}
    y = torch.arange(_JUDGED) % data.n_classes
    for name in ("cached", "gs_jacobi"):
        made = []
        for i, part in enumerate(y.split(250)):
            noise = Noise(step_generator(0, "samples", i, model.device))
            images, _ = model.sample(len(part), noise, part.to(model.device), WAYS[name])
            made.append(images.cpu().nan_to_num().clamp(-1, 1))
        features[name] = known.net(unit(torch.cat(made))).features
    real = known.train.features
    cached, windows = (frechet_distance(features[name], real) for name in features)
    return {"fd_cached": cached, "fd_gs_jacobi": windows, "fd_change": windows / cached - 1}


def _metrics(model: SimFlow, data: ClassImages) -> dict[str, float]:
    x, y = data.x_train[:_CHOSEN].to(model.device), data.c_train[:_CHOSEN].to(model.device)
    noise = Noise(step_generator(0, "guesses", device=model.device))
    tokens = model.tokens(model.noisy(x, noise))
    found = {}
    for guess, values in guessing_metric(model.flow, tokens, y).items():
        found |= {f"guess_{guess}_{k}": float(v) for k, v in enumerate(values)}
    ranks = convergence_ranking(model.flow, tokens, y)
    return found | {f"rank_{k}": float(v / ranks.sum()) for k, v in enumerate(ranks)}


@torch.no_grad()
def exactness(model: SimFlow, data: ClassImages) -> dict[str, float]:
    """Greatest distance of held-out tokens from what the naive and the cached inverse give back.

    In units of the greatest value of a token.
    """
    x, y = data.x_eval[:_BATCH].to(model.device), data.c_eval[:_BATCH].to(model.device)
    noise = Noise(step_generator(0, "exactness", device=model.device))
    tokens = model.tokens(model.noisy(x, noise))
    z, found = model.flow(tokens, y).z, {}
    for name, way in (("roundtrip", WAYS["naive"]), ("roundtrip_cached", WAYS["cached"])):
        error = (inverse(model.flow, z, y, way).x - tokens).abs().max()
        found[name] = float(error / tokens.abs().max())
    return found


def alignment(model: SimFlow, data: ClassImages) -> dict[str, float]:
    """``1 - cos`` on held-out images, and how much of the encoder's gradient is its own.

    ``alignment_gradient`` is the norm of its gradient in the encoder over that of the NLL's, each
    with its weight in the loss.
    """
    if model.alignment is None:
        return {}
    x, y = data.x_eval[:_CHOSEN].to(model.device), data.c_eval[:_CHOSEN].to(model.device)
    noise = Noise(step_generator(0, "alignment", device=model.device))
    weights, h = list(model.vae.encoder.parameters()), model.hparams
    with torch.enable_grad():
        for weight in weights:
            weight.requires_grad_(True)
        seen = model.encoded(model.noisy(x, noise), y, tap=tuple(h.align_at))
        loss, nll = model.alignment(seen.hidden, x), -seen.log_prob.mean() / model.dims
        norms = [_norm(h.alignment_weight * loss, weights), _norm(h.lambda_nf * nll, weights)]
    return {"alignment": float(loss.detach()), "alignment_gradient": norms[0] / norms[1]}


def _norm(loss: Tensor, weights: list[Tensor]) -> float:
    """Of a loss's gradient."""
    found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    return float(torch.stack([g.norm() for g in found if g is not None]).norm())


# ------------------------------------------------------------------------------ interpolation
@torch.no_grad()
def interpolation(model: SimFlow, data: ClassImages) -> dict[str, Any]:
    """Decoded mixtures of two means, ten steps from one held-out image to another.

    ``blending`` is the mean over steps and pairs of the distance to the nearer end over that
    between the ends: 0 where pictures switch from one to the other, 0.22 on a straight line.
    ``_features`` takes distances between the classifier's features instead of pixels.
    """
    known = ruler(data)
    x, y = data.x_eval, data.c_eval
    a = torch.randperm(len(x), generator=step_generator(0, "pairs"))
    b = a.roll(1)
    other = y[a] != y[b]
    a, b = a[other][:_PAIRS], b[other][:_PAIRS]
    ends = [model.vae.encode(x[rows].to(model.device)).mean for rows in (a, b)]
    path = [
        model.vae.decode(ends[0].lerp(ends[1], t)).cpu().nan_to_num().clamp(-1, 1)
        for t in torch.linspace(0, 1, _STEPS).tolist()
    ]
    seen = torch.stack([known.net(unit(part)).features for part in path])
    pictures = torch.stack(path)  # (steps, pairs, C, H, W)
    return {
        "blending": _blending(pictures.flatten(2)),
        "blending_features": _blending(seen),
        "tiles": tiles(pictures[:, :_SHOWN].transpose(0, 1).flatten(0, 1)),
    }


def _blending(path: Tensor) -> float:
    """Of points (steps, pairs, D)."""
    near = torch.minimum((path - path[0]).norm(dim=2), (path - path[-1]).norm(dim=2))
    return float((near / (path[-1] - path[0]).norm(dim=1).clamp_min(1e-9)).mean())
