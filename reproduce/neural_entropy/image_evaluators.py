"""What is measured on models of images: (model, datamodule) -> numbers in nats, and pictures.

No exact score is known, so S_NN stands alone, and always with its window: most of it lies at small
times, and more is found the smaller they are. Held-out images and noise have fixed keys.
"""

from typing import Any

from datamodules.stored_images import StoredImages
from lightning_modules import NeuralEntropy
from lightning_modules.neural_entropy.estimators import (
    EntropyCurves,
    Window,
    entropy_curves,
    entropy_in_strata,
    log_prob_bound,
)
from lightning_modules.neural_entropy.sampling import probability_flow, start
from lightning_modules.randomness import step_generator

import numpy as np
import torch
from torch import Tensor

__all__ = ["cross_entropy", "image_profile", "quality", "stored", "stored_train"]

_TIMES = 500  # of the paper's grid for images
_STRATA = 8  # random times in so many parts give the same integral within 0.1 %


def paper_range(first: bool = False) -> tuple[float, float]:
    """The times between which the paper integrates S_NN of images, ``first`` point or not."""
    s = Window.paper(_TIMES, drop_first=not first).s
    return float(s[0]), float(s[-1])


def _entropy(
    model: NeuralEntropy,
    x: Tensor,
    labels: Tensor | None,
    between: tuple[float, float],
    strata: int = _STRATA,
) -> EntropyCurves:
    x, labels = x.to(model.device), None if labels is None else labels.to(model.device)
    rng = step_generator(0, "stored", device=x.device)
    lo, hi = between
    return entropy_in_strata(model.process, model, x, strata, rng, lo, hi, labels=labels)


def _held_out(model: NeuralEntropy, data: StoredImages, n: int) -> tuple[Tensor, Tensor | None]:
    """The first ``n`` held-out images and their labels, on the model's device."""
    labels = None if data.c_eval is None else data.c_eval[:n].to(model.device)
    return data.x_eval[:n].to(model.device), labels


def _range(data: StoredImages) -> tuple[float, float]:
    # the authors keep the first point for their conditional model and drop it for the other
    return paper_range(first=data.labelled)


def stored(model: NeuralEntropy, data: StoredImages) -> dict[str, float]:
    """S_NN on held-out images over the paper's range of times."""
    curves = _entropy(model, data.x_eval, data.c_eval, _range(data))
    value, error = curves.integral("neural")
    return {"S_NN": value, "S_NN_se": error}


def stored_train(model: NeuralEntropy, data: StoredImages) -> dict[str, float]:
    """S_NN on training images: as many as are held out, or all."""
    x, labels = data.train_points(len(data.x_eval))
    curves = _entropy(model, x, labels, _range(data))
    value, error = curves.integral("neural")
    return {"S_NN_train": value, "S_NN_train_se": error}


def cross_entropy(model: NeuralEntropy, data: StoredImages) -> dict[str, float]:
    """Upper bound on the cross-entropy of 100 held-out images, by 100 throws an image.

    Pixels are not dequantised, as in the authors' code: constant ones let it fall below zero.
    """
    x, labels = _held_out(model, data, 100)
    rng = step_generator(0, "cross-entropy", device=x.device)
    bound = log_prob_bound(model.process, model, x, throws=100, generator=rng, labels=labels)
    return {"CE": -float(bound.mean()), "CE_se": float(bound.std() / len(bound) ** 0.5)}


def image_profile(model: NeuralEntropy, data: StoredImages) -> dict[str, Any]:
    """Where along diffusion time the stored entropy lies, at log-spaced times and on the grid."""
    x, labels = _held_out(model, data, 200)
    lo, hi = _range(data)
    parts = [
        _entropy(model, x, labels, between).integral("neural")[0]
        for between in ((lo, 0.1), (0.1, 0.5), (0.5, hi))
    ]
    fine = _entropy(model, x, labels, (1e-5, 1 - 1e-5), strata=64)
    x, labels = _held_out(model, data, 40)
    rng = step_generator(0, "grid", device=x.device)
    grid = entropy_curves(model.process, model, x, Window.paper(_TIMES), rng, labels=labels)
    total = sum(parts)
    return {
        "s_peak": float(fine.window.s[int(fine.neural.argmax())]),
        "peak": float(fine.neural.max()),
        "s_peak_grid": float(grid.window.s[int(grid.neural.argmax())]),
        "until_0.1": parts[0] / total,
        "until_0.5": (parts[0] + parts[1]) / total,
        "s": fine.window.s.tolist(),
        "rate": fine.neural.tolist(),
        "s_grid": grid.window.s.tolist(),
        "rate_grid": grid.neural.tolist(),
    }


def quality(model: NeuralEntropy, data: StoredImages) -> dict[str, Any]:
    """Sliced Wasserstein distance of generated images to held-out ones, and a row of pictures.

    Every model starts from the same noise and is led along the probability flow by Heun's method.
    ``floor`` is the distance between two halves of the held-out images.
    """
    n = min(250, len(data.x_eval) // 2)
    rng = step_generator(0, "start", device=model.device)
    x0 = start(model.process, (n, *data.x_eval.shape[1:]), rng)
    labels = None
    if data.c_eval is not None:  # ten classes in turn, the same for every model
        labels = torch.arange(n, device=model.device) % int(data.c_eval.max() + 1)
    made = probability_flow(
        model.process, model, x0, labels=labels, solver="heun", steps=40
    ).x.cpu()
    real, other = data.x_eval[:n], data.x_eval[n : 2 * n]
    tiles = (made[:16].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return {
        "sliced_W2": sliced_wasserstein(made, real),
        "floor": sliced_wasserstein(other, real),
        "tiles": np.ascontiguousarray(tiles),
    }


def sliced_wasserstein(x: Tensor, y: Tensor, directions: int = 256) -> float:
    """``sqrt(D E_u W2(u.x, u.y)^2)`` over fixed random unit vectors u, of equally many points.

    The factor D makes it a distance in the units of W2 itself: for a shift it is its length.
    """
    x, y = x.flatten(1).double(), y.flatten(1).double()
    u = torch.randn(x.shape[1], directions, generator=step_generator(0, "slices")).double()
    u /= u.norm(dim=0)
    square = ((x @ u).sort(0).values - (y @ u).sort(0).values).square().mean()
    return float((x.shape[1] * square).sqrt())
