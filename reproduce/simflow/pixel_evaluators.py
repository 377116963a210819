"""What is measured on a flow of pixels (TarFlow): (model, datamodule) -> bits, distances."""

import math
from typing import Any

from datamodules import ClassImages
from lightning_modules import SimFlow
from lightning_modules.flows import bits_per_dim
from lightning_modules.simflow.sampling import denoise

import torch
from torch import Tensor

from reproduce.simflow.evaluators import chunks, judged, samples
from reproduce.simflow.ruler import ruler, tiles

__all__ = ["denoising", "density"]

_IMAGES, _TILES, _CHUNK = 2000, 10, 250


@torch.no_grad()
def density(model: SimFlow, data: ClassImages) -> dict[str, float]:
    """Bits per dimension of held-out integer images, one draw of uniform noise each.

    ``bpd_gaussian`` is that of independent normal pixels with the training images' moments, on
    the same draws; both are upper bounds on the bits of the discrete model.
    """
    mean, std = _moments(model, data)
    flow, gauss = [], []
    for x, y, noise in chunks(model, data, "density"):
        latents = model.noisy(x, noise)
        flow.append(model.vae.log_mass(model.encoded(latents, y).log_prob, model.dims))
        z = (latents.cpu() - mean) / std
        log_prob = (-0.5 * z.square() - std.log() - 0.5 * math.log(2 * math.pi)).sum((1, 2, 3))
        gauss.append(model.vae.log_mass(log_prob, model.dims))
    bits = bits_per_dim(torch.cat(flow).double().cpu(), model.dims)
    return {
        "bpd": float(bits.mean()),
        "bpd_se": float(bits.std() / math.sqrt(len(bits))),
        "bpd_gaussian": float(bits_per_dim(torch.cat(gauss).double(), model.dims).mean()),
    }


def _moments(model: SimFlow, data: ClassImages) -> tuple[Tensor, Tensor]:
    """Of each value of the dequantised training images, in closed form."""
    x = model.vae.encode(data.x_train).mean
    centre = ((x + 1) * 127.5 + 0.5) / 128 - 1
    variance = centre.var(0, correction=0) + (1 / 128) ** 2 / 12
    return centre.mean(0), variance.sqrt()


@torch.no_grad()
def denoising(model: SimFlow, data: ClassImages) -> dict[str, Any]:
    """Samples of a flow of noisy pixels, as they come and with Tweedie's mean in their place.

    ``nll`` is of held-out noisy images, nats per dimension, 0.5 ln 2 pi included; ``gfd_raw`` and
    ``gfd_denoised`` are Frechet distances to the training images, which have no noise.
    """
    known, std = ruler(data), model.vae.std
    nll = [
        -model.encoded(model.noisy(x, noise), y).log_prob / model.dims
        for x, y, noise in chunks(model, data, "density")
    ]
    raw, y = samples(model, data, _IMAGES)
    clean = []
    for x, labels in zip(raw.split(_CHUNK), y.split(_CHUNK), strict=True):
        x, labels = x.nan_to_num().to(model.device), labels.to(model.device)
        tokens = denoise(model.flow, model.tokens(model.vae.encode(x).mean), std, labels)
        clean.append(model.vae.decode(model.latents(tokens)).cpu())
    denoised = torch.cat(clean)
    found: dict[str, Any] = {"nll": float(torch.cat(nll).double().mean())}
    for name, made in (("raw", raw), ("denoised", denoised)):
        seen = judged(made, y, known)
        found |= {f"gfd_{name}": seen["gfd_classifier"], f"accuracy_{name}": seen["accuracy"]}
    return {**found, "tiles": tiles(torch.cat([raw[:_TILES], denoised[:_TILES]]))}
