"""The arms of EIW-Flow's targets: a data set, a backbone, a channel order."""

from collections.abc import Mapping
from typing import Any

from reproduce.target import Arm

__all__ = ["DATA", "GLOW", "MODES", "RANDOM", "arm", "tuned"]

GLOW = "eiw_flow"

# every order of the ablation; random ones are named by their permutation's seed
RANDOM = tuple(f"random-{i}" for i in range(5))
MODES = (
    "identity",
    "reverse",
    *RANDOM,
    "blocks",
    "eiw",
    "eiw_snapshot",
    "param",
    "ste",
    "oracle_entropy",
    "anti_oracle",
)

_NET = "model.init_args.net.init_args"
_DATA = "data.init_args"

# name -> (C, H, W), and the DataModule's arguments; colour images are box averages
DATA: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "digits": ((1, 8, 8), {"source": "digits", "bits": 4}),
    "mnist16": ((1, 16, 16), {"source": "mnist", "size": 16, "n": 1000, "n_eval": 200}),
    "cifar16": ((3, 16, 16), {"source": "cifar10_lossless", "size": 16}),
    "tiny16": (
        (3, 16, 16),
        {"source": "tiny_imagenet", "size": 16, "n": 25, "n_eval": 5, "eval_split": "val"},
    ),
    "noise": ((4, 8, 8), {"source": "noise"}),
    "cifar32": ((3, 32, 32), {"source": "cifar10_jpeg"}),
    "cifar10": ((3, 32, 32), {"source": "cifar10"}),
    "imagenet32": ((3, 32, 32), {"source": "imagenet32", "eval_split": "val"}),
    "imagenet64": ((3, 64, 64), {"source": "imagenet64", "eval_split": "val"}),
    "celeba": ((3, 64, 64), {"source": "celeba", "size": 64}),
}


def _data(name: str, config: str) -> dict[str, Any]:
    shape, given = DATA[name]
    bits = given.get("bits", 8)
    dequantizer = "model.init_args.dequantizer.init_args"
    # the variational one is a network for images of one shape
    more = {f"{dequantizer}.shape": list(shape)} if config.endswith("dense") else {}
    return more | {
        f"{_NET}.shape": list(shape),
        f"{dequantizer}.bits": bits,
        f"{_DATA}.source": given["source"],
        f"{_DATA}.size": given.get("size"),
        f"{_DATA}.bits": bits,
        f"{_DATA}.n_per_class": given.get("n", 1_000_000),
        f"{_DATA}.n_eval_per_class": given.get("n_eval", 1_000_000),
        f"{_DATA}.eval_split": given.get("eval_split", "test"),
    }


def _order(mode: str, steps: int, channels: int) -> dict[str, Any]:
    if mode.startswith("random-"):
        return {f"{_NET}.order": "random", f"{_NET}.order_args.perm_seed": int(mode[7:])}
    # as the solver's input, the count of 48 channels and more saturates its softmax
    count = channels == 1 or mode == "eiw_snapshot"
    changes: dict[str, Any] = {
        f"{_NET}.order": mode,
        f"{_NET}.order_args.solver_input": "raw" if count else "unit",
    }
    if mode in ("oracle_entropy", "anti_oracle"):  # an order that goes on changing is no oracle
        changes["model.init_args.freeze_order_after"] = steps // 10
    return changes


def arm(
    data: str,
    mode: str,
    recipe: Mapping[str, Any],
    config: str = GLOW,
    axes: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Arm:
    """One data set and order; ``recipe`` is a tier's, ``changes`` come on top.

    Args:
        axes: further axes of the target's table, beside ``data`` and ``mode``.
    """
    steps, channels = recipe["trainer.max_steps"], DATA[data][0][0]
    return Arm(
        {"data": data, **(axes or {}), "mode": mode},
        {**_data(data, config), **recipe, **_order(mode, steps, channels), **(changes or {})},
        config,
    )


def tuned(updates: int, marks: list[int] | None = None, **net: Any) -> dict[str, Any]:
    """A recipe: updates, the marks among them, and widths of the net.

    The last fifth is at a tenth of the rate: at a constant one, weights scatter from update to
    update by more than arms differ.
    """
    return {
        "trainer.max_steps": updates,
        "model.init_args.fine_tune_after": updates * 4 // 5,
        "marks.updates": marks or ([updates] if updates else []),
        **{f"{_NET}.{key}": value for key, value in net.items()},
    }
