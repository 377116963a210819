"""The evaluators of SimFlow's targets, and what their numbers are called in tables."""

from reproduce.target import Evaluator

__all__ = [
    "ALIGNMENT",
    "DENOISING",
    "DENSITY",
    "EXACTNESS",
    "GENERATION",
    "GUIDANCE",
    "INTERPOLATION",
    "LATENTS",
    "PROGRESS",
    "RECONSTRUCTION",
    "ROBUSTNESS",
    "SAMPLING",
    "SEEDS",
    "STATISTICS",
]

_BASE = "reproduce.simflow.evaluators"
_SAMPLING = "reproduce.simflow.sampling_evaluators"
_PIXELS = "reproduce.simflow.pixel_evaluators"

_BEYOND = ("small", "gpu", "paper")
SEEDS = {"smoke": 1, "small": 5, "gpu": 3, "paper": 1}


def _last(name: str, call: str, *tiers: str) -> Evaluator:
    given = {"tiers": tiers} if tiers else {}
    return Evaluator(name, 1, call, marks="last", data="ClassImages", **given)


LATENTS = _last("latents", f"{_BASE}:latents")
RECONSTRUCTION = _last("reconstruction", f"{_BASE}:reconstruction")
ROBUSTNESS = _last("robustness", f"{_BASE}:robustness")
GENERATION = (
    _last("generation", f"{_BASE}:few", "smoke"),
    _last("generation", f"{_BASE}:generation", "small"),
    _last("generation", f"{_BASE}:many", "gpu", "paper"),
)
# the same along training, without pictures
PROGRESS = (
    Evaluator("progress", 1, f"{_BASE}:few_along", data="ClassImages", tiers=("smoke",)),
    Evaluator("progress", 1, f"{_BASE}:progress", data="ClassImages", tiers=_BEYOND),
)
GUIDANCE = (
    _last("guidance", f"{_BASE}:few_guided", "smoke"),
    _last("guidance", f"{_BASE}:guidance", *_BEYOND),
)
INTERPOLATION = _last("interpolation", f"{_SAMPLING}:interpolation")
SAMPLING = _last("sampling", f"{_SAMPLING}:sampling")
ALIGNMENT = _last("alignment", f"{_SAMPLING}:alignment")
EXACTNESS = _last("exactness", f"{_SAMPLING}:exactness")
DENSITY = _last("density", f"{_PIXELS}:density")
DENOISING = _last("denoising", f"{_PIXELS}:denoising")

# the paper's four statistics of the latents' means, and what explains them
STATISTICS = {
    "hf_ratio": "",
    "hf_ratio_centred": "",
    "spectral_entropy": "",
    "spectral_entropy_centred": "",
    "autocorrelation": "",
    "total_variation": "",
    "total_variation_standardised": "",
    "std": "",
    "mean_abs": "",
    "snr": "",
}
