"""How good a flow's samples are: (model, datamodule) -> Frechet distances, and pictures.

Every arm draws from the same noise, and is measured with the same classifier, which the training
images and labels alone determine.
"""

from functools import partial
from typing import Any

from datamodules import DataError, DensityImages
from lightning_modules import EIWFlow
from lightning_modules.flows import Noise
from lightning_modules.randomness import step_generator

import torch
from torch import Tensor

from reproduce.evaluators.frechet import frechet_distance
from reproduce.evaluators.inception import fidelity, weights
from reproduce.evaluators.ruler import Ruler, ruler

__all__ = [
    "as_bytes",
    "draws",
    "few",
    "inception",
    "inception_if_there",
    "many",
    "quality",
    "ruler_of",
]

_CHUNK = 250
_TILES = 8


def ruler_of(data: DensityImages) -> Ruler:
    """What the images are measured with that a flow is trained on."""
    top = 2**data.bits - 1
    train, held_out = data.x_train / top, data.x_eval / top
    key = f"{data.fingerprint}-{data.bits}"
    return ruler(train, data.c_train, held_out, data.c_eval, key)


@torch.no_grad()
def draws(model: EIWFlow, n: int) -> Tensor:
    """``n`` integer images at temperature 1, on the CPU, from noise that all arms share."""
    parts = []
    for i, start in enumerate(range(0, n, _CHUNK)):
        noise = Noise(step_generator(0, "quality", i, model.device))
        parts.append(model.sample(min(_CHUNK, n - start), noise).cpu())
    return torch.cat(parts)


def as_bytes(x: Tensor, bits: int) -> Tensor:
    """Integer images of b bits as uint8 with 2^b - 1 at 255."""
    return (x * (255 / (2**bits - 1))).nan_to_num().round().clamp(0, 255).to(torch.uint8).cpu()


def quality(model: EIWFlow, data: DensityImages, n: int = 1000) -> dict[str, Any]:
    """Frechet distance of ``n`` generated images on the features of the small classifier.

    ``fd_classifier`` is to all training images, ``fd_classifier_held_out`` to all held-out ones,
    ``floor`` that of ``n`` draws of the training images to all of them. ``sure`` is the share of
    images to which the classifier gives a class more than 0.9, ``class_entropy`` the entropy of
    the histogram of its classes in nats; ``_real`` is said of held-out images.
    """
    real, x = ruler_of(data), draws(model, n)
    made = real.net(x / (2**data.bits - 1))
    return {
        "fd_classifier": frechet_distance(made.features, real.train.features),
        "fd_classifier_held_out": frechet_distance(made.features, real.held_out.features),
        "floor": real.floor(n),
        "images": float(n),
        "sure": made.sure(),
        "sure_real": real.held_out.sure(),
        "class_entropy": made.class_entropy(),
        "class_entropy_real": real.held_out.class_entropy(),
        "accuracy": real.net.accuracy,
        "tiles": as_bytes(x[:_TILES], data.bits).numpy(),
    }


few = partial(quality, n=200)
many = partial(quality, n=10_000)


def inception(model: EIWFlow, data: DensityImages, n: int = 50_000) -> dict[str, float]:
    """FID, KID, precision and recall of ``n`` generated images.

    Raises:
        DataError: no usable weights, told before anything is drawn.
    """
    weights()
    real = (as_bytes(x, data.bits) for x in (data.x_train, data.x_eval))
    return fidelity(as_bytes(draws(model, n), data.bits), *real, model.device.type == "cuda")


def inception_if_there(model: EIWFlow, data: DensityImages, n: int = 10_000) -> dict[str, Any]:
    """The same where there are weights, else why there is nothing."""
    try:
        weights()
    except DataError as error:
        return {"reason": str(error)}
    return inception(model, data, n)
