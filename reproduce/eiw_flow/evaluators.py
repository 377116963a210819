"""What is measured on a flow: (model, datamodule) -> bits, entropies in nats, orders.

Held-out images, dequantisation noise and noise channels have fixed keys: every arm is scored on
the same draws, so differences between arms are not differences between draws.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from datamodules import DensityImages
from lightning_modules import EIWFlow
from lightning_modules.eiw_flow.alignment import (
    class_probe,
    crossings,
    factored_mass,
    kept_overlap,
    normalised_entropy,
    order_spearman,
    pixel_probe,
    spearman,
)
from lightning_modules.eiw_flow.entropy import ESTIMATORS, entropies, r2e2
from lightning_modules.eiw_flow.gaussianity import gaussianity, ks_interval
from lightning_modules.eiw_flow.multiscale import Scale
from lightning_modules.eiw_flow.shuffle import channel_entropy, order_kl
from lightning_modules.flows import Noise, bits_per_dim
from lightning_modules.randomness import step_generator

import torch
from PIL import Image
from torch import Tensor

__all__ = [
    "damaged_likelihood",
    "features",
    "information",
    "ks",
    "likelihood",
    "orders",
    "png",
]

DRAWS = 16
_IMAGES = 2000  # of the held-out ones, at most, whose features are looked at
_CHUNK = 64


def _chunks(model: EIWFlow, x: Tensor, stream: str):
    """Parts of ``x`` on the model's device, each with noise of its own."""
    for i, part in enumerate(x.split(_CHUNK)):
        yield part.to(model.device), Noise(step_generator(0, stream, i, model.device))


# -------------------------------------------------------------------------- likelihood
def _bits(model: EIWFlow, x: Tensor, stream: str) -> tuple[Tensor, Tensor]:
    """Bits per dimension of each image: mean one-sample bound, importance-weighted bound."""
    found = [model.importance_bound(part, DRAWS, n) for part, n in _chunks(model, x, stream)]
    iw, mean = (torch.cat(parts).double().cpu() for parts in zip(*found, strict=True))
    return bits_per_dim(mean, model.net.dims), bits_per_dim(iw, model.net.dims)


def likelihood(model: EIWFlow, data: DensityImages) -> dict[str, float]:
    """Bits per dimension of held-out images: the one-sample bound in the mean, and K = 16."""
    bpd, iw = _bits(model, data.x_eval, "likelihood")
    return {
        "bpd": float(bpd.mean()),
        "bpd_iw16": float(iw.mean()),
        "bpd_se": float(bpd.std() / math.sqrt(len(bpd))),
    }


def damaged_likelihood(model: EIWFlow, data: DensityImages) -> dict[str, float]:
    """The same of the held-out images after the damage that a share of the training images has."""
    bpd, iw = _bits(model, data.x_eval_damaged, "likelihood")
    return {"bpd_damaged": float(bpd.mean()), "bpd_damaged_iw16": float(iw.mean())}


def png(model: EIWFlow, data: DensityImages) -> dict[str, float]:
    """Bits per dimension of all held-out images, one below the other, in one PNG file."""
    x = data.x_eval.to(torch.uint8)
    rows = x.permute(0, 2, 3, 1).flatten(0, 1)  # (N H, W, C)
    file = io.BytesIO()
    Image.fromarray(rows.squeeze(-1).numpy()).save(file, "PNG", optimize=True)
    return {"png": 8 * file.tell() / x.numel()}


# ---------------------------------------------------------------------------- features
@dataclass
class _Features:
    """Held-out images and their features: at the splits, and what the last scale leaves."""

    y: Tensor
    scales: list[Scale]
    last: Tensor


@torch.no_grad()
def _features(model: EIWFlow, data: DensityImages) -> _Features:
    ys, lasts, traces = [], [], []
    for part, noise in _chunks(model, data.x_eval[:_IMAGES], "features"):
        y, _ = model.dequantizer(part, noise)
        trace: list[Scale] = []
        encoding = model.net(y, noise, trace)
        ys.append(y.cpu())
        lasts.append(encoding.latents[-1].cpu())
        traces.append(trace)
    scales = [
        Scale(*(torch.cat([getattr(s, name) for s in parts]).cpu() for name in "uvxz"))
        for parts in zip(*traces, strict=True)
    ]
    return _Features(torch.cat(ys), scales, torch.cat(lasts))


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """Without the numbers that do not exist (a rank correlation with a constant, say)."""
    return {k: v for k, v in values.items() if not isinstance(v, float) or math.isfinite(v)}


@torch.no_grad()
def orders(model: EIWFlow, data: DensityImages) -> dict[str, float]:
    """Each split's order: against entropy, against its start, and what solver and guider say.

    ``order_shape`` is against the entropy of channels divided by their standard deviation, which
    the next ActNorm is free to change.
    """
    found: dict[str, float] = {}
    for k, (scale, order) in enumerate(
        zip(_features(model, data).scales, model.net.orders, strict=True), 1
    ):
        perm, entropy = order.perm.cpu(), channel_entropy(scale.u)
        std = scale.u.transpose(0, 1).flatten(1).std(1)
        found |= {
            f"order_entropy_{k}": order_spearman(perm, entropy),
            f"order_shape_{k}": order_spearman(perm, entropy - std.log()),
            f"overlap_vanilla_{k}": kept_overlap(perm, torch.arange(len(perm))),
            f"overlap_initial_{k}": kept_overlap(perm, order.initial.cpu()),
            f"crossed_{k}": float(order.crossed),
            f"moved_{k}": float(crossings(perm, order.initial.cpu())),
            "order_parameters": float(sum(p.numel() for p in model.net.orders.parameters())),
        }
        if order.guider is None:
            continue
        seen = scale.v if order.mode == "eiw_snapshot" else scale.u
        p, q = order.guider(seen.to(model.device)), order.solver()
        mean_p = p.softmax(-1).mean(0)
        found |= {
            f"kl_{k}": float(order_kl(p, q)),
            f"H_Q_{k}": normalised_entropy(q.softmax(-1)),
            f"H_P_{k}": normalised_entropy(mean_p),
            f"Q_P_{k}": spearman(q, mean_p),
            f"logits_moved_{k}": float((q - order.first_logits).abs().max()),
        }
    return _known(found)


@torch.no_grad()
def features(model: EIWFlow, data: DensityImages) -> dict[str, float]:
    """Expected entropy of what is kept and factored out, and of every stage; nats an element.

    ``_std`` is after dividing each element by its standard deviation, which leaves the shape.
    """
    seen = _features(model, data)
    found: dict[str, float] = {"images": float(len(seen.y))}
    for name in ESTIMATORS:
        tag = "" if name == "spacing" else f"_{name}"
        stages = [seen.y, *(s.u for s in seen.scales), seen.last]
        for k, u in enumerate(stages):
            e = entropies(u, name)
            found |= {f"E2_stage{k}{tag}": e.expected, f"E2_stage{k}_std{tag}": e.standardised}
            found[f"variance_stage{k}{tag}"] = float(e.std.square().mean())
        for k, scale in enumerate(seen.scales, 1):
            x, z = entropies(scale.x, name), entropies(scale.z, name)
            ratio, difference = r2e2(x, z)
            _, shape = r2e2(x, z, standardised=True)
            found |= {
                f"E2_x_{k}{tag}": x.expected,
                f"E2_z_{k}{tag}": z.expected,
                f"R2E2_{k}{tag}": ratio,
                f"E2_gap_{k}{tag}": difference,
                f"E2_gap_{k}_std{tag}": shape,
                f"negentropy_x_{k}{tag}": x.negentropy,
                f"negentropy_z_{k}{tag}": z.negentropy,
            }
    return _known(found)


@torch.no_grad()
def ks(model: EIWFlow, data: DensityImages) -> dict[str, float]:
    """Kolmogorov-Smirnov distance of the features from N(0, 1), as they are and standardised."""
    found: dict[str, float] = {}
    for k, scale in enumerate(_features(model, data).scales, 1):
        for part, u in (("z", scale.z), ("x", scale.x)):
            for tag, standardised in (("", False), ("_std", True)):
                one = gaussianity(u, standardised)
                rng = torch.Generator().manual_seed(k)
                low, high = ks_interval(u, standardised, rng=rng)
                at = f"{part}_{k}{tag}"
                found |= {
                    f"D_{at}": one.pooled,
                    f"D_median_{at}": one.median,
                    f"D_iqr_{at}": one.iqr,
                    f"D_low_{at}": low,
                    f"D_high_{at}": high,
                }
    return found


@torch.no_grad()
def information(model: EIWFlow, data: DensityImages) -> dict[str, float]:
    """What each split gives away: by the guider's weights, and by what a probe can still read."""
    seen, found = _features(model, data), {}
    labels = data.c_eval[: len(seen.y)]
    probes: dict[str, Callable[[Tensor], float]] = {
        "pixels": lambda u: pixel_probe(u, seen.y),
        "class": lambda u: class_probe(u, labels),
    }
    for k, (scale, order) in enumerate(zip(seen.scales, model.net.orders, strict=True), 1):
        for name, probe in probes.items():
            if name == "class" and len(labels.unique()) < 2:
                continue
            found |= {f"{name}_x_{k}": probe(scale.x), f"{name}_z_{k}": probe(scale.z)}
        if order.guider is not None:
            p = order.guider(scale.u.to(model.device)).softmax(-1).cpu()
            found |= {
                f"mass_{k}": factored_mass(p, order.perm.cpu()),
                f"mass_static_{k}": factored_mass(p),
                f"mass_least_{k}": factored_mass(p, p.mean(0).argsort(descending=True)),
            }
    return _known(found)
