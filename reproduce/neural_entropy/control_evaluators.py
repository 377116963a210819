"""What the controls measure: other windows, memorisers in closed form, dilated laws, sizes.

Wherever two things are compared they get the same points and the same noise, so that the
difference is theirs and not the draws'.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from datamodules import GaussianMixture, MixtureData
from datamodules.stored_images import StoredImages
from lightning_modules import NeuralEntropy
from lightning_modules.neural_entropy import Process
from lightning_modules.neural_entropy.estimators import (
    Window,
    entropy_curves,
    entropy_drop,
    shared_out,
)
from lightning_modules.neural_entropy.memoriser import Memoriser, memorised_entropy
from lightning_modules.randomness import step_generator

import torch
from torch import Tensor

from reproduce.neural_entropy.evaluators import _points
from reproduce.neural_entropy.image_evaluators import paper_range

__all__ = ["dilated", "memorised", "size", "windows"]

_GRIDS = (50, 100, 500)  # equally spaced times; the paper has 100 for mixtures, 500 for images
_CUTOFFS = (1e-5, 1e-4, 1e-3)
_EPS = 1e-3  # where the memoriser of a mixture begins
_IMAGES = 1000  # of the training images, which every memoriser of images is measured on
_REPEATS = 4  # noises a point, from whose spread errors are told


def size(model: NeuralEntropy, data: Any) -> dict[str, int]:
    """Trainable parameters."""
    return {"params": sum(p.numel() for p in model.parameters() if p.requires_grad)}


# ----------------------------------------------------------------------------- windows
def windows(model: NeuralEntropy, data: MixtureData | StoredImages) -> dict[str, float]:
    """S_NN over the paper's window, and by what share of it other windows change it.

    ``times_<n>``: n equally spaced times in place of the paper's number; ``first_point``: the
    first one kept; ``log_spaced``: times dense in log s over the same range; ``from_<eps>``: the
    integral from eps on, by such times, beside that from 1e-3 on. For mixtures ``exact_...`` are
    the same changes of S_tot.
    """
    images = isinstance(data, StoredImages)
    x = data.x_eval[: 50 if images else 2000].to(model.device)
    density = None if images else data.density.to(model.device)
    rng = step_generator(0, "window", device=x.device)
    z = torch.randn(x.shape, generator=rng, device=x.device)
    own = _GRIDS[-1] if images else 100
    grids = {n: Window.paper(n, drop_first=False).s for n in _GRIDS}
    curves = {n: _rates(model, x, z, s[:, None].to(x.device), density) for n, s in grids.items()}
    edges = (*_CUTOFFS, float(grids[own][1]), float(grids[own][-1]))
    parts = []
    for lo, hi in pairwise(edges):
        s, width = _strata(lo, hi, len(x), rng)
        rates = _rates(model, x, z, s, density, weight=width * s * (1 - s))
        parts.append({field: float(rate.sum()) for field, rate in rates.items()})

    found: dict[str, float] = {}
    for field in parts[0]:
        linear = {n: float(torch.trapezoid(curves[n][field][1:], s[1:])) for n, s in grids.items()}
        base = linear.pop(own)
        whole = float(torch.trapezoid(curves[own][field], grids[own]))
        first, second, *rest = (part[field] for part in parts)
        found |= {
            "S_tot" if field else "S_NN": base,
            **{f"{field}times_{n}": value / base - 1 for n, value in linear.items()},
            f"{field}first_point": whole / base - 1,
            f"{field}log_spaced": rest[-1] / base - 1,
            f"{field}from_1e-4": second / sum(rest),
            f"{field}from_1e-5": (first + second) / sum(rest),
        }
    return found


@torch.no_grad()
def _rates(
    model: NeuralEntropy,
    x: Tensor,
    z: Tensor,
    s: Tensor,
    density: GaussianMixture | None = None,
    weight: Tensor | None = None,
) -> dict[str, Tensor]:
    """Mean entropy rates (T,) at times s, (T, 1) or one for each point (T, n), times ``weight``.

    A point keeps its noise z at all times: windows then differ by their times alone.
    """
    process = model.process
    found: dict[str, list[Tensor]] = {"": []} if density is None else {"": [], "exact_": []}
    for k, now in enumerate(s):
        mu, std, scale = process.mu(now), process.std(now), process.sigma2(now) / 2
        scale = scale if weight is None else scale * weight[k]
        shape = (-1, *[1] * (x.dim() - 1))
        y = (mu.reshape(shape) * x + std.reshape(shape) * z).to(x.dtype)
        fields = {"": model(y, now.to(x.dtype)).double()}
        if density is not None:
            law = density.diffused(mu, std)
            fields["exact_"] = law.score(y.double()) - process.score_eq(y.double())
        for name, e in fields.items():
            found[name].append((scale * e.flatten(1).square().sum(1)).mean().cpu())
    return {name: torch.stack(rates) for name, rates in found.items()}


def _strata(lo: float, hi: float, n: int, rng: torch.Generator) -> tuple[Tensor, float]:
    """Random times (T, n) in parts equal in logit(s), and their width there.

    Random, because a network that knows time by fast Fourier features has ripples in its rate.
    The points share each part out among them.
    """
    a, b = (math.log(v / (1 - v)) for v in (lo, hi))
    parts = math.ceil(8 * (b - a))
    k = torch.arange(parts, device=rng.device)[:, None]
    width = (b - a) / parts
    return (a + width * (k + shared_out(parts, n, rng))).sigmoid(), width


# ----------------------------------------------------------------------------- memorisation
def memorised(model: NeuralEntropy, data: MixtureData | StoredImages) -> dict[str, float]:
    """What memorisers of N points store, on their own points and on held-out ones; no training.

    N is the batch size: the training points are cut into sets of N, each with a memoriser of its
    own, so that every N is measured on the same points with the same noise. For mixtures also the
    closed form, with what it leaves out where kernels touch (``overlap``), and ``excess``, what
    the measured value has beyond both.
    """
    process, n = model.process, data.batch_size
    mixture = isinstance(data, MixtureData)
    x = data.x_train.double() if mixture else data.x_train
    measured = x if mixture else x[:_IMAGES]
    sets = x.split(n)[: math.ceil(len(measured) / n)]
    window = Window.exact(48, _EPS) if mixture else Window.exact(24, *paper_range())
    field = _memorisers(process, sets)

    repeats = _REPEATS if mixture else 1
    owner = (torch.arange(len(measured)) // n).repeat(repeats)
    own = _each(process, field, measured.repeat(repeats, *[1] * (x.dim() - 1)), owner, window)
    held_out = data.x_eval.to(x.dtype)
    other = _each(process, field, held_out, torch.arange(len(held_out)) % len(sets), window)
    found = {"S_train": float(own.mean()), "S_test": float(other.mean())}
    found["test_over_train"] = found["S_test"] / found["S_train"]
    if mixture:
        formula = sum(len(part) * memorised_entropy(process, part, _EPS) for part in sets) / len(x)
        overlap, overlap_error = _overlap(process, sets)
        error = _error(own.reshape(repeats, -1))
        found |= {
            "S_train_se": error,
            "formula": formula,
            "overlap": overlap,
            "excess": found["S_train"] - formula - overlap,
            "excess_se": math.hypot(error, overlap_error),
        }
    return found


def _memorisers(process: Process, sets: Sequence[Tensor]) -> Callable[..., Tensor]:
    """A field of several memorisers: each row is led by that of its label."""
    each = [Memoriser(process, points, points.dtype) for points in sets]

    def field(y: Tensor, s: Tensor, owner: Tensor) -> Tensor:
        e = torch.empty_like(y)
        for k in owner.unique().tolist():
            rows = owner == k
            e[rows] = each[k](y[rows], s if len(s) == 1 else s[rows])
        return e

    return field


def _each(
    process: Process, field: Callable[..., Tensor], x: Tensor, owner: Tensor, window: Window
) -> Tensor:
    """The integral over the window for each point (n,)."""
    rng = step_generator(0, "memoriser")
    # many rows a call: with many memorisers each gets few of them
    return entropy_curves(process, field, x, window, rng, rows=1 << 13, labels=owner).neural_each


def _overlap(process: Process, sets: Sequence[Tensor]) -> tuple[float, float]:
    """Entropy at eps that the formula counts although kernels overlap, and its error.

    ``E log(sum_j k_j / k_own)`` over the kernels k of a set: nil where they lie apart.
    """
    eps = torch.tensor(_EPS, dtype=torch.float64)
    mu, std, rng = process.mu(eps), process.std(eps), step_generator(0, "overlap")
    found = []
    for points in sets:
        z = torch.randn((_REPEATS, *points.shape), generator=rng, dtype=points.dtype)
        near = torch.cdist(mu * points + std * z, mu * points).square() / (2 * std**2)
        own = z.square().sum(-1) / 2
        found.append((-near).logsumexp(-1) + own)
    each = torch.cat(found, 1)
    return float(each.mean()), _error(each)


def _error(each: Tensor) -> float:
    """Standard error of the mean of (repeats, n) given the n points: of their noise alone."""
    return float((each.var(0).mean() / each.numel()).sqrt())


# ----------------------------------------------------------------------------- dilation
def dilated(model: NeuralEntropy, data: MixtureData) -> dict[str, float]:
    """S_tot of a dilated mixture when kappa grows with it, over that of the mixture itself.

    The same up to rounding: both are from the same draws.
    """
    name, _, d = data.mixture.partition("-d")
    process, plain = model.process, GaussianMixture.named(name)
    wider = replace(process, kappa=process.kappa * (1 + int(d or 0) / 10))
    total, scaled = (
        entropy_drop(p, law, _points(law, 100_000, "dilation"))[0]
        for p, law in ((process, plain), (wider, data.density))
    )
    return {"S_tot_scaled": scaled, "scaled_err": scaled / total - 1}
