"""What is measured on a VAE and its flow: (model, datamodule) -> nats, dB, Frechet distances.

Held-out images, noise and the latents that samples start from have fixed keys: every arm is
measured on the same draws, so differences between arms are not differences between draws.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

from datamodules import ClassImages
from lightning_modules import SimFlow
from lightning_modules.flows import Noise
from lightning_modules.randomness import step_generator
from lightning_modules.simflow import Guidance
from lightning_modules.simflow.latent_stats import (
    centred,
    latent_stats,
    power_spectrum,
    shares,
    spectral_entropy,
)
from lightning_modules.simflow.objective import psnr

import torch
from torch import Tensor

from reproduce.evaluators.frechet import frechet_distance
from reproduce.simflow.ruler import Ruler, ruler, tiles, unit

__all__ = [
    "LEVELS",
    "RULES",
    "WEIGHTS",
    "chunks",
    "few",
    "few_along",
    "few_guided",
    "generation",
    "guidance",
    "judged",
    "latents",
    "many",
    "progress",
    "reconstruction",
    "robustness",
    "samples",
]

LEVELS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)  # the paper's noise levels
WEIGHTS = (0.5, 1.0, 2.0, 4.0, 10.0)
RULES = (("linear", "all"), ("linear", "deep"), ("score", "all"), ("score", "deep"))
_CHUNK, _TILES, _SPECTRA = 250, 20, 2000
_LN_2PIE = math.log(2 * math.pi * math.e)


def chunks(model: SimFlow, data: ClassImages, stream: str) -> Iterator[tuple]:
    """Held-out images and labels on the model's device, each part with noise of its own."""
    parts = zip(data.x_eval.split(_CHUNK), data.c_eval.split(_CHUNK), strict=True)
    for i, (x, y) in enumerate(parts):
        noise = Noise(step_generator(0, stream, i, model.device))
        yield x.to(model.device), y.to(model.device), noise


# ------------------------------------------------------------------------------------ latents
@torch.no_grad()
def latents(model: SimFlow, data: ClassImages) -> dict[str, Any]:
    """The code: its likelihood under the flow, its noise, and how it looks.

    ``nll`` is of the latents that flow and decoder see, nats per dimension, 0.5 ln 2 pi included;
    ``noise_entropy`` that of the noise in them, which no flow can fall below in the mean;
    ``rate`` is the difference, ``nll_se`` the standard error of the first. ``sigma`` is the root
    mean variance of all noise, ``snr`` the means' variance over it. The statistics are those of
    the means (section 9.6). ``spectrum`` (h, w), in the order of ``fftfreq``, is the mean over
    images of the share of an image's power at each frequency, ``entropies`` (n,) the spectral
    entropy of each of the first images; ``_centred`` after each channel has lost its mean.
    """
    nll, entropy, means, variance = [], [], [], []
    for x, y, noise in chunks(model, data, "latents"):
        posterior = model.vae.encode(x)
        total = posterior.std.square() + (model.hparams.extra_noise * model.spread) ** 2
        nll.append(-model.encoded(model.noisy(x, noise), y).log_prob / model.dims)
        entropy.append(0.5 * (total.log() + _LN_2PIE).mean((1, 2, 3)))
        means.append(posterior.mean.cpu())
        variance.append(total.mean((1, 2, 3)).cpu())
    nll, entropy = torch.cat(nll).double(), torch.cat(entropy).double()
    sigma, mu = float(torch.cat(variance).double().mean().sqrt()), torch.cat(means)
    found: dict[str, Any] = latent_stats(mu, sigma)
    for suffix, maps in (("", mu), ("_centred", centred(mu))):
        power = power_spectrum(maps)
        found[f"spectrum{suffix}"] = shares(power).mean(0).float().numpy()
        found[f"entropies{suffix}"] = spectral_entropy(power)[:_SPECTRA].float().numpy()
    return {
        "nll": float(nll.mean()),
        "nll_se": float(nll.std() / math.sqrt(len(nll))),
        "noise_entropy": float(entropy.mean()),
        "rate": float(nll.mean() - entropy.mean()),
        "rate_over_error": float((nll.mean() - entropy.mean()) / (nll.std() / len(nll) ** 0.5)),
        "sigma": sigma,
        **found,
    }


# ----------------------------------------------------------------------------- reconstructions
def _reconstructed(model: SimFlow, data: ClassImages, level: float, ruler: Ruler) -> dict:
    """PSNR and Frechet distance of held-out images, decoded from means with noise."""
    found, errors = [], []
    for x, _, noise in chunks(model, data, "reconstruction"):
        decoded = model.reconstruct(x, level, noise).nan_to_num().clamp(-1, 1)
        errors.append((decoded - x).square().mean((1, 2, 3)))
        found.append(decoded.cpu())
    seen = ruler.net(unit(torch.cat(found)))
    distance = frechet_distance(seen.features, ruler.held_out.features)
    return {"psnr": float(psnr(torch.cat(errors)).mean()), "rfd_classifier": distance}


@torch.no_grad()
def reconstruction(model: SimFlow, data: ClassImages) -> dict[str, float]:
    """Of held-out images from the means alone: PSNR in dB, the mean of each image's, and ``rfd``.

    ``psnr_noisy`` is from what the decoder was trained on in the second stage.
    """
    found = _reconstructed(model, data, 0.0, ruler(data))
    errors = []
    for x, _, noise in chunks(model, data, "noisy"):
        decoded = model.vae.decode(model.noisy(x, noise)).clamp(-1, 1)
        errors.append((decoded - x).square().mean((1, 2, 3)))
    return {**found, "psnr_noisy": float(psnr(torch.cat(errors)).mean())}


@torch.no_grad()
def robustness(model: SimFlow, data: ClassImages) -> dict[str, float]:
    """The same at the paper's noise levels, and at levels in units of the means' deviation."""
    known = ruler(data)
    means = torch.cat([model.vae.encode(x).mean.cpu() for x, _, _ in chunks(model, data, "")])
    std = float(centred(means).square().mean().sqrt())  # as latent_stats has it
    found: dict[str, float] = {"std": std}
    for suffix, scale in (("", 1.0), ("_relative", std)):
        for level in LEVELS:
            one = _reconstructed(model, data, scale * level, known)
            found |= {f"{name}{suffix}_{level:g}": value for name, value in one.items()}
        found[f"drop{suffix}"] = found[f"psnr{suffix}_0"] - found[f"psnr{suffix}_1"]
    return found


# ------------------------------------------------------------------------------------ samples
@torch.no_grad()
def samples(
    model: SimFlow, data: ClassImages, n: int, guidance: Guidance | None = None
) -> tuple[Tensor, Tensor]:
    """``n`` images on the CPU, as they come, and the labels that they were asked for, in turn.

    Latents and labels are the same in every arm and under every guidance.
    """
    y = torch.arange(n) % data.n_classes
    made = []
    for i, part in enumerate(y.split(_CHUNK)):
        noise = Noise(step_generator(0, "samples", i, model.device))
        images, _ = model.sample(len(part), noise, part.to(model.device), guidance=guidance)
        made.append(images.cpu())
    return torch.cat(made), y


def judged(made: Tensor, y: Tensor, known: Ruler) -> dict[str, float]:
    """What the classifier says of samples; one that is no image is a grey one."""
    seen = known.net(unit(made.nan_to_num().clamp(-1, 1)))
    precision, recall = known.precision_recall(seen)
    return {
        "gfd_classifier": frechet_distance(seen.features, known.train.features),
        "gfd_classifier_held_out": frechet_distance(seen.features, known.held_out.features),
        "accuracy": known.accuracy(seen, y),
        "precision": precision,
        "recall": recall,
        "is_classifier": seen.inception_score(),
    }


def generation(model: SimFlow, data: ClassImages, n: int = 2000) -> dict[str, Any]:
    """``n`` images, one class after another, without guidance.

    ``gfd`` is their Frechet distance to the training images on the small classifier's features,
    ``floor`` that of ``n`` draws of these; ``accuracy`` the share of which the classifier names
    the class that was asked for, precision and recall those of torch-fidelity on its features,
    ``is_classifier`` the inception score on its probabilities.
    """
    known = ruler(data)
    made, y = samples(model, data, n)
    return {
        **judged(made, y, known),
        "floor": known.floor(n),
        "accuracy_real": known.net.accuracy,
        "is_real": known.held_out.inception_score(),
        "images": float(n),
        "tiles": tiles(made[:_TILES]),
    }


@torch.no_grad()
def progress(model: SimFlow, data: ClassImages, n: int = 2000) -> dict[str, float]:
    """Along training: distance and accuracy of ``n`` samples, NLL and PSNR of held-out images."""
    known = ruler(data)
    seen = judged(*samples(model, data, n), known)
    code, decoded = latents(model, data), _reconstructed(model, data, 0.0, known)
    return {
        "gfd_along": seen["gfd_classifier"],
        "accuracy_along": seen["accuracy"],
        "nll_along": code["nll"],
        "psnr_along": decoded["psnr"],
    }


def guidance(model: SimFlow, data: ClassImages, n: int = 2000) -> dict[str, Any]:
    """The same for each rule, choice of blocks and weight: ``accuracy_score_deep_2`` is at w = 2.

    ``finite_<rule>_<blocks>`` is the share of samples at all weights that are numbers throughout.
    """
    known = ruler(data)
    plain, y = samples(model, data, n)
    found = {f"{k}_none": v for k, v in judged(plain, y, known).items()}
    shown = [plain[:10]]
    for rule, blocks in RULES:
        finite = []
        for weight in WEIGHTS:
            made, _ = samples(model, data, n, Guidance(weight, rule, blocks))
            finite.append(made.isfinite().all(3).all(2).all(1))
            tag = f"{rule}_{blocks}_{weight:g}"
            found |= {f"{k}_{tag}": v for k, v in judged(made, y, known).items()}
            if (rule, blocks) == ("score", "deep"):
                shown.append(made[:10])
        found[f"finite_{rule}_{blocks}"] = float(torch.cat(finite).double().mean())
    return {**found, "tiles": tiles(torch.cat(shown))}


few, many = partial(generation, n=200), partial(generation, n=10_000)
few_along, few_guided = partial(progress, n=200), partial(guidance, n=200)
