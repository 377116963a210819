"""sf-density, sf-denoise, sf-sampling: the flow by itself, on pixels, and how it is inverted."""

from reproduce.simflow.arms import pixels
from reproduce.simflow.headline import headline_arms
from reproduce.simflow.measures import DENOISING, DENSITY, SAMPLING, SEEDS
from reproduce.target import Arm, Equivalence, Identity, Order, Pick, Printed, Target, Value

__all__ = ["TARGETS"]

_UPDATES = {"smoke": 20, "small": 1000, "gpu": 20_000, "paper": 500_400}
_DATA = {
    "smoke": ("digits",),
    "small": ("digits", "mnist16"),
    "gpu": ("cifar32",),
    "paper": ("imagenet64",),
}
_NONE = {"flow.conditioning": "none", "flow.classes": 0}
_LAYERS = {"smoke": [1, 1], "small": [2, 2, 2, 2], "gpu": [4, 4, 4, 4], "paper": [8] * 8}


def density_arms(tier: str) -> list[Arm]:
    """The whole flow, and its first block alone with as many layers.

    Both have a start token where both are there: without one a block leaves its first token as it
    is, and a single block has no other that would transform it.
    """
    found, start = [], tier != "paper"
    for data in _DATA[tier]:
        for name, layers in (("flow", _LAYERS[tier]), ("one block", [sum(_LAYERS[tier])])):
            axes = {"data": data, "model": name}
            changes = {**_NONE, "flow.layers": layers, "flow.start_token": start}
            if tier != "paper" or name == "flow":
                found.append(pixels(data, tier, _UPDATES[tier], axes, changes))
    return found


DENSITY_TARGET = Target(
    id="sf-density",
    paper="simflow",
    title="TarFlow as a density",
    question="How many bits does the flow need for an image, against simpler densities?",
    reference="T13; TarFlow, ImageNet 64",
    config="simflow_pixels",
    arms=density_arms,
    seeds=SEEDS,
    evaluators=(DENSITY,),
    metrics={"bpd": "bits/dim", "bpd_gaussian": "bits/dim", "bpd_se": "bits/dim"},
    printed={"bpd": "density/bpd"},
    claims=(
        Order(
            "beats-independent-pixels",
            "It needs fewer bits than independent normal pixels",
            over=("data",),
            where={"model": "flow"},
            unit="bits/dim",
            less=Pick("bpd"),
            greater=Pick("bpd_gaussian"),
        ),
        Order(
            "beats-one-block",
            "Several blocks need fewer bits than one of as many layers",
            over=("data",),
            tiers=("small", "gpu"),
            unit="bits/dim",
            less=Pick("bpd", {"model": "flow"}),
            greater=Pick("bpd", {"model": "one block"}),
        ),
        Value(
            "printed",
            "ImageNet 64: 2.99 bits per dimension",
            where={"data": "imagenet64", "model": "flow"},
            tiers=("paper",),
            pick=Pick("bpd"),
            printed=Printed("density/bpd"),
            spread=0.01,
            paper="2.99",
        ),
    ),
    figure="reproduce.simflow.figures:density",
    how="Uniform dequantisation, one draw per image; without labels. Bits of digits and MNIST are "
    "not comparable with those of ImageNet.",
    departures=(
        "Below tier paper both arms have a start token, which TarFlow has not: a single block "
        "would leave its first token as it is.",
    ),
)

# -------------------------------------------------------------------------------- denoise


def denoise_arms(tier: str) -> list[Arm]:
    """Gaussian noise of 0.1 on pixels; with scales, and with shifts alone."""
    data = {"paper": "imagenet64", "gpu": "cifar32"}.get(tier, "digits")
    whole = {"vae.std": 0.1}
    if tier == "paper":
        whole |= {"vae.std": 0.05, "flow.conditioning": "additive", "flow.classes": 1000}
    kinds = {"scale and shift": whole, "shift alone": {**whole, "flow.volume_preserving": True}}
    return [
        pixels(data, tier, _UPDATES[tier], {"blocks": name}, changes)
        for name, changes in kinds.items()
    ]


DENOISE = Target(
    id="sf-denoise",
    paper="simflow",
    title="TarFlow's samples, before and after denoising",
    question="Does the score step make samples of a flow of noisy pixels better, and are scales "
    "needed?",
    reference="T14; TarFlow's ablations",
    config="simflow_pixels",
    arms=denoise_arms,
    seeds=SEEDS,
    evaluators=(DENOISING,),
    metrics={
        "nll": "nats/dim",
        "gfd_raw": "",
        "gfd_denoised": "",
        "accuracy_raw": "",
        "accuracy_denoised": "",
    },
    claims=(
        Order(
            "denoising-helps",
            "Denoised samples are closer to the training images than raw ones",
            where={"blocks": "scale and shift"},
            less=Pick("gfd_denoised"),
            greater=Pick("gfd_raw"),
        ),
        Order(
            "scales-are-needed",
            "With shifts alone the NLL is higher",
            unit="nats/dim",
            less=Pick("nll", {"blocks": "scale and shift"}),
            greater=Pick("nll", {"blocks": "shift alone"}),
        ),
        Order(
            "shifts-alone-sample-worse",
            "With shifts alone samples are farther from the training images",
            less=Pick("gfd_denoised", {"blocks": "scale and shift"}),
            greater=Pick("gfd_denoised", {"blocks": "shift alone"}),
            paper="5.7 against 51.0",
        ),
    ),
    figure="reproduce.simflow.picture_figures:denoise",
    how="Noise of standard deviation 0.1 on pixels in [-1, 1]; denoising adds its variance times "
    "the score. With shifts alone the prior's variance follows the latents.",
)

# ------------------------------------------------------------------------------- sampling


_WAYS = ("naive", "cached", "jacobi", "jacobi_zero", "gs_jacobi", "jacobi_early")
_EXACT = _WAYS[:-1]

SAMPLING_TARGET = Target(
    id="sf-sampling",
    paper="simflow",
    title="Four ways to draw a sample",
    question="How many calls do a cache and Jacobi iterations save, and are samples the same?",
    reference="T15; arXiv 2505.12849",
    config="simflow",
    arms=headline_arms,
    seeds={"smoke": 1, "small": 3, "gpu": 3, "paper": 1},
    evaluators=(SAMPLING,),
    metrics={
        **{f"{m}_{w}": unit for w in _WAYS for m, unit in
           (("calls", ""), ("tokens", ""), ("error", ""), ("ms", "ms"), ("speed", ""))},
        "fd_cached": "",
        "fd_gs_jacobi": "",
        "fd_change": "",
        **{f"{m}_{k}": "" for k in range(6) for m in ("guess_z", "guess_zero", "rank")},
    },
    claims=(
        *(
            Identity(
                f"{way.replace('_', '-')}-is-exact",
                f"Tokens drawn {way.replace('_', ' ')} are the naive inverse's within 1e-4",
                metric=f"error_{way}",
                low=0.0,
                high=1e-4,
            )
            for way in _EXACT[1:]
        ),
        Order(
            "jacobi-takes-fewer-calls",
            "Jacobi's iterations take fewer calls than token by token",
            less=Pick("calls_jacobi"),
            greater=Pick("calls_cached"),
        ),
        Order(
            "windows-take-fewer-calls",
            "So do windows",
            less=Pick("calls_gs_jacobi"),
            greater=Pick("calls_cached"),
        ),
        Order(
            "cache-is-faster",
            "With a cache a batch takes less time than without",
            unit="ms",
            less=Pick("ms_cached"),
            greater=Pick("ms_naive"),
        ),
        Order(
            "windows-are-faster",
            "In windows a batch takes less than half the time of the cached way",
            unit="ms",
            tiers=("gpu", "paper"),
            less=2.0,
            greater=Pick("speed_gs_jacobi"),
            paper="2.5 to 5.3 times",
        ),
        Equivalence(
            "same-distance",
            "Windows change the Frechet distance of samples by less than 1 %",
            a=Pick("fd_change"),
            b=0.0,
            margin=0.01,
        ),
    ),
    figure="reproduce.simflow.figures:sampling",
    how="50 samples from the same latents and labels, times are medians of three turns; the "
    "Frechet distance is of 1000.",
)  # fmt: skip

TARGETS = (DENSITY_TARGET, DENOISE, SAMPLING_TARGET)
