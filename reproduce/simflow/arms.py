"""The arms of SimFlow's targets: a data set, and a variant of what is trained on it."""

from collections.abc import Mapping
from typing import Any

from reproduce.target import Arm

__all__ = [
    "DATA",
    "END_TO_END",
    "HOME",
    "PIXELS",
    "RECIPES",
    "SIMFLOW",
    "VARIANTS",
    "arm",
    "pixels",
    "published",
    "standard",
]

SIMFLOW, PIXELS = "simflow", "simflow_pixels"
END_TO_END = "e2e/fixed"

_MODEL = "model.init_args"
_VAE, _FLOW = f"{_MODEL}.vae.init_args", f"{_MODEL}.flow.init_args"
_DATA = "data.init_args"

# name -> (C, H, W), classes, and the DataModule's arguments; small images are box averages
DATA: dict[str, tuple[tuple[int, int, int], int, dict[str, Any]]] = {
    "digits": ((1, 8, 8), 10, {"source": "digits"}),
    "mnist16": ((1, 16, 16), 10, {"source": "mnist", "size": 16, "n": 1000, "n_eval": 100}),
    "cifar16": ((3, 16, 16), 10, {"source": "cifar10_jpeg", "size": 16, "n_eval": 100}),
    "cifar32": ((3, 32, 32), 10, {"source": "cifar10_jpeg", "n_eval": 500}),
    "imagenet256": ((3, 256, 256), 1000, {"source": "imagenet256", "eval_split": "val"}),
    "imagenet512": ((3, 512, 512), 1000, {"source": "imagenet512", "eval_split": "val"}),
    "imagenet64": ((3, 64, 64), 1000, {"source": "imagenet64", "eval_split": "val"}),
}

# The six rows of section 5.3: what the second stage trains, and on which latents. Frozen parts
# come from a first stage of their own length; latents that nothing holds are standardised.
_FROZEN = {"train_encoder": False, "train_decoder": False, "standardise": True}
_LEARNABLE, _FIXED = {"posterior": "learnable"}, {"posterior": "fixed", "fixed_std": 0.5}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "frozen/learnable": (_LEARNABLE, _FROZEN),
    "frozen/fixed": (_FIXED, _FROZEN),
    "frozen/fixed+LN": ({**_FIXED, "encoder_norm": True}, {**_FROZEN, "standardise": False}),
    "frozen-encoder/noise": (
        _LEARNABLE,
        {"train_encoder": False, "train_decoder": True, "standardise": True, "extra_noise": 0.5},
    ),
    "e2e/noise": (_LEARNABLE, {"extra_noise": 0.5}),
    END_TO_END: (_FIXED, {}),
}
_OURS = {  # what every variant says, so that it says it whatever the YAML does
    "vae": {"posterior": "fixed", "fixed_std": 0.5, "encoder_norm": False},
    "model": {
        "train_encoder": True, "train_decoder": True, "standardise": False, "extra_noise": 0.0,
        "pretrain": 0,
    },
}  # fmt: skip


def _data(name: str) -> dict[str, Any]:
    _, _, given = DATA[name]
    return {
        f"{_DATA}.source": given["source"],
        f"{_DATA}.size": given.get("size"),
        f"{_DATA}.n_per_class": given.get("n", 1_000_000),
        f"{_DATA}.n_eval_per_class": given.get("n_eval", 1_000_000),
        f"{_DATA}.eval_split": given.get("eval_split", "test"),
    }


def _sized(name: str, levels: int, channels: int) -> dict[str, Any]:
    """A VAE and a flow for these images: each level but the first halves the side."""
    (colours, side, _), classes, _ = DATA[name]
    grid = side >> levels - 1
    return {
        f"{_VAE}.in_channels": colours,
        f"{_VAE}.multipliers": [1, *[2] * (levels - 1)],
        f"{_VAE}.latent_channels": channels,
        f"{_FLOW}.channels": channels,
        f"{_FLOW}.grid": [grid, grid],
        f"{_FLOW}.classes": classes,
    }


# Updates with the flow, the first stage's, and the marks: fixed before the first run. Digits are
# 1500 images, which longer runs only learn by heart. At paper 80 epochs of 5004 updates, and the
# same for a VAE alone.
RECIPES: dict[str, tuple[int, int, list[int]]] = {
    "smoke": (20, 6, [10, 20]),
    "small": (2000, 1000, [500, 1000, 1500, 2000]),
    "gpu": (20_000, 8000, [5000, 10_000, 15_000, 20_000]),
    "paper": (400_320, 400_320, [400_320]),
}
# Photographs take a longer first stage, as long as what follows: frozen parts are then no less
# trained than those of an end-to-end run.
_LONGER = {("small", "cifar16"): (3000, 3000, [750, 1500, 2250, 3000])}
# one data set a tier for what is asked on one
HOME = {"smoke": "digits", "small": "digits", "gpu": "cifar32", "paper": "imagenet256"}


def standard(
    data: str,
    variant: str,
    tier: str,
    axes: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
    updates: int | None = None,
) -> Arm:
    """A variant at the tier's own length, or at another one, with one mark."""
    whole, pretrain, marks = _LONGER.get((tier, data), RECIPES[tier])
    if updates is None or tier == "smoke":
        return arm(data, variant, tier, whole, pretrain, marks, axes, changes)
    return arm(data, variant, tier, updates, pretrain, None, axes, changes)


_EPOCHS = [300_240, 400_320, 500_400, 600_480, 800_640]  # 60, 80, 100, 120 and 160


def published(
    axes: Mapping[str, Any] | None = None, changes: Mapping[str, Any] | None = None
) -> Arm:
    """160 epochs of ImageNet at 256 pixels, end to end, with the marks of the paper's figure."""
    return arm("imagenet256", END_TO_END, "paper", _EPOCHS[-1], 0, _EPOCHS, axes, changes)


# levels of the VAE and channels of its latents, at the tiers whose YAML is of another size
_SIZES = {"digits": (2, 4), "mnist16": (3, 4), "cifar16": (3, 32)}


def arm(
    data: str,
    variant: str,
    tier: str,
    updates: int,
    pretrain: int = 0,
    marks: list[int] | None = None,
    axes: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Arm:
    """One data set and variant.

    Args:
        updates: with the flow.
        pretrain: of the first stage, where the variant has one.
        marks: updates with the flow at which weights are kept; the last one without.
        axes: the target's own, in place of data and variant.
        changes: further keys of the model, with ``vae.``, ``flow.`` or ``data.`` before theirs.
    """
    vae, model = VARIANTS[variant]
    first = 0 if model.get("train_encoder", True) else pretrain
    overrides = _data(data)
    if tier == "small":  # elsewhere the YAML's one data set has its sizes
        overrides |= _sized(data, *_SIZES[data])
    overrides |= {f"{_VAE}.{k}": v for k, v in {**_OURS["vae"], **vae}.items()}
    overrides |= {f"{_MODEL}.{k}": v for k, v in {**_OURS["model"], **model}.items()}
    overrides |= {
        f"{_MODEL}.pretrain": first,
        "trainer.max_steps": first + updates,
        "marks.updates": [first + m for m in marks or ([updates] if updates else [])],
    }
    overrides |= _changed(changes)
    return Arm(axes or {"data": data, "variant": variant}, overrides, SIMFLOW)


def pixels(
    data: str,
    tier: str,
    updates: int,
    axes: Mapping[str, Any],
    changes: Mapping[str, Any] | None = None,
) -> Arm:
    """TarFlow on the pixels of a data set."""
    overrides = _data(data)
    if tier == "small":
        (colours, side, _), classes, _ = DATA[data]
        patch = side // 4
        overrides |= {
            f"{_VAE}.in_channels": colours,
            f"{_VAE}.patch": patch,
            f"{_FLOW}.channels": colours * patch**2,
            f"{_FLOW}.classes": classes,
        }
    overrides |= {"trainer.max_steps": updates, "marks.updates": [updates] if updates else []}
    return Arm(axes, overrides | _changed(changes), PIXELS)


def _changed(changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """``vae.x``, ``flow.x``, ``data.x`` and the model's own keys, as the config has them."""
    found = {}
    for key, value in (changes or {}).items():
        part, _, rest = key.partition(".")
        where = {"vae": _VAE, "flow": _FLOW, "data": _DATA}.get(part) if rest else None
        found[f"{where}.{rest}" if where else f"{_MODEL}.{key}"] = value
    return found
