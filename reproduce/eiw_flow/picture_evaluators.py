"""What a flow's latents show: (model, datamodule) -> pictures, and the numbers behind them.

Images, pairs of images and noise have fixed keys: every arm draws the same pictures.
"""

import copy
from collections.abc import Sequence
from typing import Any

from datamodules import DensityImages
from lightning_modules import EIWFlow
from lightning_modules.eiw_flow import ChannelOrder
from lightning_modules.eiw_flow.multiscale import Scale
from lightning_modules.flows import Noise, bits_per_dim
from lightning_modules.randomness import step_generator

import numpy as np
import torch
from torch import Tensor

from reproduce.eiw_flow.quality_evaluators import as_bytes, ruler_of
from reproduce.evaluators.classifier import Classifier

__all__ = ["AMOUNTS", "SHOWN", "TEMPERATURES", "TIMES", "pictures"]

TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0)
TIMES = tuple(i / 8 for i in range(9))  # between reconstructions, the authors' step
SHOWN = (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # of the whole line
AMOUNTS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # of the direction from one class to another
_PAIRS, _IMAGES, _PER_CLASS, _DRAWS = 16, 64, 200, 4

Latents = list[Tensor]


class _Studio:
    """A flow with its images at hand."""

    def __init__(self, model: EIWFlow, data: DensityImages) -> None:
        self.model, self.bits = model, data.bits
        self.x, self.labels = data.x_eval.to(model.device), data.c_eval

    def noise(self, stream: str) -> Noise:
        return Noise(step_generator(0, stream, device=self.model.device))

    def read(self, x: Tensor, trace: list[Scale] | None = None) -> tuple[Tensor, Latents]:
        """Dequantised images and their latents."""
        noise = self.noise("pictures")
        y, _ = self.model.dequantizer(x, noise)
        return y, self.model.net(y, noise, trace).latents

    def show(self, y: Tensor) -> Tensor:
        """Integer images; what is no number, far outside the data, is black."""
        return self.model.dequantizer.inverse(y).nan_to_num()

    def tiles(self, x: Tensor) -> np.ndarray:
        return as_bytes(x, self.bits).numpy()

    def bits_of(self, x: Tensor) -> Tensor:
        """Bits per dimension of integer images, with noise that is the same for each."""
        bound, _ = self.model.importance_bound(x, _DRAWS, self.noise("path"))
        return bits_per_dim(bound, self.model.net.dims).cpu()

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Rows of held-out images, two by two; of different classes, where there are any."""
        order = torch.randperm(len(self.x), generator=step_generator(0, "pairs"))
        a, b = order, order.roll(1)
        other = self.labels[a] != self.labels[b]
        if other.any():
            a, b = a[other], b[other]
        return a[:_PAIRS], b[:_PAIRS]


@torch.no_grad()
def pictures(model: EIWFlow, data: DensityImages) -> dict[str, Any]:
    """Numbers, the bits along paths between images, and uint8 pictures (C, H, W).

    ``reconstruction_error`` is the greatest of a round trip; ``bypassed_k`` the root mean square
    error, in units of the pixels' range, of images whose k-th order is left out when they are
    decoded. ``path_excess`` is what the greatest bits per dimension along the line between all
    latents of two images has over that along the line between their last latents, in the mean
    over pairs; ``middle_bpd_*`` are the bits half way. ``consistent_*`` is the share of the images
    between that the small classifier calls either end's class, ``consistent_chance`` that of
    samples; ``_pixels`` is said of mixtures of the two images. ``turned`` is the share of images
    of one class that it calls another's after the step between the classes' mean latents.
    """
    studio = _Studio(model, data)
    net = ruler_of(data).net if len(data.c_eval.unique()) > 1 else None
    found: dict[str, Any] = {}
    for part in (_reconstructions(studio), _temperatures(studio), _channels(studio)):
        found |= part
    found |= _paths(studio, net)
    if net is not None:
        found |= _direction(studio, data, net)
    return found


def _reconstructions(studio: _Studio) -> dict[str, Any]:
    """The error of a round trip, and of one that leaves out an order on its way back."""
    model, x = studio.model, studio.x[:_IMAGES]
    y, latents = studio.read(x)
    back = model.net.inverse(latents)
    found: dict[str, Any] = {"reconstruction_error": float((back - y).abs().max())}
    rows = [x[:1]]
    for k, order in enumerate(model.net.orders):
        twin = copy.deepcopy(model.net)
        twin.orders[k] = ChannelOrder(len(order.perm)).to(model.device)
        wrong = twin.inverse(latents)
        error = wrong.clamp(-0.5, 0.5) - y  # pixels range from -1/2 to 1/2
        found[f"bypassed_{k + 1}"] = float(error.square().mean().sqrt())
        rows.append(studio.show(wrong[:1]))
    return found | {"bypassed": studio.tiles(torch.cat(rows))}


def _temperatures(studio: _Studio) -> dict[str, Any]:
    """Samples from the same noise, the temperature of the last scale's latents or of all."""
    net = studio.model.net
    n = 2 if net.dims > 1000 else 6  # sidecars are small

    def sampled(*temperatures: float) -> Tensor:
        return studio.show(net.sample(n, studio.noise("temperature"), *temperatures))

    last = torch.stack([sampled(1.0, t) for t in TEMPERATURES])
    every = torch.stack([sampled(t) for t in TEMPERATURES])
    return {"temperatures_last": studio.tiles(last), "temperatures_all": studio.tiles(every)}


def _channels(studio: _Studio) -> dict[str, Any]:
    """The first and last four channels at each split, before and after Shuffle, of one image."""
    trace: list[Scale] = []
    studio.read(studio.x[:1], trace)
    found = {}
    for k, scale in enumerate(trace, 1):
        low, high = scale.u.min(), scale.u.max()
        for name, maps in (("before", scale.u[0]), ("after", scale.v[0])):
            chosen = torch.cat([maps[:4], maps[-4:]])
            share = (chosen - low) / (high - low)
            found[f"{name}_{k}"] = as_bytes(share, 1).numpy()
    return found


# ------------------------------------------------------------------------------- paths
def _line(a: Latents, b: Latents, times: Sequence[float]) -> Latents:
    """Latents on the line from a to b, at each time all pairs."""
    return [torch.cat([p + t * (q - p) for t in times]) for p, q in zip(a, b, strict=True)]


def _paths(studio: _Studio, classifier: Classifier | None) -> dict[str, Any]:
    net = studio.model.net
    i, j = studio.pairs()
    (_, a), (_, b) = studio.read(studio.x[i]), studio.read(studio.x[j])
    last = _line(a[-1:], b[-1:], TIMES)[0]
    ways = {
        "all": studio.show(net.inverse(_line(a, b, TIMES))),
        "last": studio.show(net.complete(last, studio.noise("redrawn"))),
        "pixels": _line([studio.x[i]], [studio.x[j]], TIMES)[0].round(),
    }
    shape = (len(TIMES), len(i))
    bits = {name: studio.bits_of(x).reshape(shape) for name, x in ways.items()}
    whole = studio.show(net.inverse(_line([z[:1] for z in a], [z[:1] for z in b], SHOWN)))
    alone = ways["last"].unflatten(0, shape)[::2, 0]
    found = {
        "path_excess": float((bits["all"].amax(0) - bits["last"].amax(0)).mean()),
        "line_all": studio.tiles(whole),
        "line_last": studio.tiles(alone),
    }
    for name, each in bits.items():
        found[f"max_bpd_{name}"] = float(each.amax(0).mean())
        found[f"middle_bpd_{name}"] = float(each[len(TIMES) // 2].mean())
        found[f"path_bpd_{name}"] = each.mean(1).tolist()
    if classifier is None:
        return found
    ends = torch.stack([classifier.index(studio.labels[rows]) for rows in (i, j)])
    for name, x in ways.items():
        called = _classes(studio, classifier, x).reshape(shape)[1:-1]
        found[f"consistent_{name}"] = _either(called, ends)
    drawn = studio.show(net.sample(_IMAGES, studio.noise("chance")))
    called = _classes(studio, classifier, drawn)
    return found | {"consistent_chance": _either(called[:, None].expand(-1, len(i)), ends)}


def _classes(studio: _Studio, classifier: Classifier, x: Tensor) -> Tensor:
    return classifier(x / (2**studio.bits - 1)).classes


def _either(called: Tensor, ends: Tensor) -> float:
    """Share of ``called`` (n, pairs) that is a class of the pair's ends (2, pairs)."""
    return float((called == ends[:, None]).any(0).double().mean())


# --------------------------------------------------------------------------- direction
def _direction(studio: _Studio, data: DensityImages, classifier: Classifier) -> dict[str, Any]:
    """From the second class of the source to its first, along the difference of their means."""
    means, images = [], data.x_train
    for label in classifier.labels[:2]:
        x = images[data.c_train == label][:_PER_CLASS].to(studio.model.device)
        parts = [studio.read(part)[1] for part in x.split(_IMAGES)]
        means.append([torch.cat(z).mean(0, keepdim=True) for z in zip(*parts, strict=True)])
    target, origin = means
    _, z = studio.read(studio.x[studio.labels == classifier.labels[1]][:_IMAGES])
    moved = [p + (a - b) for p, a, b in zip(z, target, origin, strict=True)]
    turned = _classes(studio, classifier, studio.show(studio.model.net.inverse(moved)))
    shown = _line([p[:1] for p in z], [p[:1] for p in moved], AMOUNTS)
    return {
        "turned": float((turned == 0).double().mean()),
        "direction": studio.tiles(studio.show(studio.model.net.inverse(shown))),
    }
