"""How the code bases of the family write a flow down: their names for its weights, as data."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor

__all__ = ["LAYOUTS", "Layout", "matches", "translated"]


@dataclass(frozen=True)
class Layout:
    """Names, and what no shape tells.

    A star in a name stands for one part between dots; stars correspond in order.

    Attributes:
        names: of weights, to our names of them.
        dropped: names of what is not needed.
        changes: by our names, how a tensor is stored differently.
        options: arguments of ``TokenFlow``.
        order: of the features of a token.
        image_channels: of the images that the flow is for; without, a token is one pixel.
    """

    names: Mapping[str, str]
    dropped: Sequence[str] = ()
    changes: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    order: str = "channel"
    image_channels: int | None = None


_LAYERS = "blocks.*.attn_blocks.*."
_COMMON = {
    "var": "var",
    "blocks.*.proj_in.*": "blocks.*.proj_in.*",
    "blocks.*.pos_embed": "blocks.*.positions",
    _LAYERS + "attention.norm.*": "blocks.*.layers.*.norm1.*",
    _LAYERS + "attention.qkv.*": "blocks.*.layers.*.qkv.*",
    _LAYERS + "attention.proj.*": "blocks.*.layers.*.proj.*",
    _LAYERS + "mlp.norm.*": "blocks.*.layers.*.norm2.*",
    _LAYERS + "mlp.main.0.*": "blocks.*.layers.*.up.*",
    _LAYERS + "mlp.main.2.*": "blocks.*.layers.*.down.*",
    "blocks.*.proj_out.*": "blocks.*.proj_out.*",
}

LAYOUTS: dict[str, Layout] = {
    "tarflow": Layout(
        names=_COMMON | {"blocks.*.class_embed": "blocks.*.table"},
        dropped=("blocks.*.attn_mask",),
        changes={"blocks.*.table": lambda rows: rows[:, 0]},  # (classes, 1, width)
        options={"dropped": "mean", "flip_first": False, "scale": "exp", "zero_bias": False},
        image_channels=3,
    ),
    "starflow": Layout(
        names=_COMMON
        | {
            "blocks.*.sos_embed": "blocks.*.first",
            "blocks.*.final_norm.weight": "blocks.*.norm.weight",
            "blocks.*.proj_txt.*": "blocks.*.prompt.*",
        },
        dropped=("blocks.*.attn_mask", "feat_rope.*"),
        changes={"blocks.*.norm.weight": lambda w: 1 + w},
        # as published, in the order L2R; R2L is flip_first=False
        options={"flip_first": True, "scale": "softplus", "soft_clip": 4.0, "prompt_pairs": 8},
        order="pixel",
    ),
}


def translated(name: str, table: Mapping[str, Any]) -> Any:
    """What a table has for a name, stars filled in; None where it has nothing."""
    for pattern, target in table.items():
        if found := _regex(pattern).fullmatch(name):
            if isinstance(target, str):
                return target.replace("*", "{}").format(*found.groups())
            return target
    return None


def matches(pattern: str, name: str) -> bool:
    """Whether a name is one of the pattern's."""
    return _regex(pattern).fullmatch(name) is not None


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", r"([^.]+)"))
