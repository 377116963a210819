"""Official checkpoints of TarFlow and STARFlow as our flow, and our flow as a file of its own.

What a code base calls its weights, and what no shape tells, stands in ``layouts.py``. Weights are
only ever read from the user's own files.
"""

import inspect
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_modules.callbacks import load_whole
from lightning_modules.simflow.flow import TokenFlow
from lightning_modules.simflow.layouts import LAYOUTS, Layout, matches, translated
from lightning_modules.simflow.tokens import to_map, to_tokens

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["PatchFlow", "export", "load", "read"]

State = dict[str, Tensor]


@dataclass(frozen=True)
class PatchFlow:
    """A flow, and how an image becomes its tokens.

    Attributes:
        patch: side of the square of pixels that is one token.
        order: of the features of a token, as ``to_tokens``.
    """

    flow: TokenFlow
    patch: int = 1
    order: str = "channel"

    def tokens(self, images: Float[Tensor, "batch C H W"]) -> Float[Tensor, "batch T D"]:
        return to_tokens(images, self.patch, self.order)

    def images(self, tokens: Float[Tensor, "batch T D"]) -> Float[Tensor, "batch C H W"]:
        return to_map(tokens, self.flow.shape.grid, self.patch, self.order)


# ------------------------------------------------------------------------ official checkpoints
def read(
    source: str | Path | Mapping[str, Any],
    layout: str = "tarflow",
    *,
    order: str | None = None,
    image_channels: int | None = None,
    **overrides: Any,
) -> PatchFlow:
    """The flow of an official checkpoint, in float32 unless it is stored in float64.

    Shapes tell its size, blocks, classes, prompt, start token, kind of positions, final norm and
    whether it preserves volume, and the side of a square grid. The rest is the layout's unless it
    is given: ``head_dim`` (64), ``scale``, ``soft_clip``, ``flip_first`` (STARFlow's L2R; R2L is
    ``flip_first=False``), a ``grid`` that is not square, or a ``prompt`` (P, E) whose length no
    attention mask tells. A prompt of one token is a label as a one-hot vector (STARFlow).

    Args:
        source: a state dict, whose tensors are taken over and not copied, or a file of one, by
            ``torch.save`` or as safetensors.
        layout: ``tarflow`` or ``starflow``.
        order: of the features of a token, where it is not the layout's.
        image_channels: of an image (TarFlow: 3) or latent (STARFlow: all of a token).
        overrides: arguments of ``TokenFlow``.

    Raises:
        ValueError: an unknown layout or argument; a file that is damaged, holds code, or is a
            folder; names that are unknown or missing; shapes that do not fit each other.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
    if unknown := sorted(set(overrides) - set(inspect.signature(TokenFlow).parameters)):
        raise ValueError(f"a flow has no {unknown[0]}: give arguments of TokenFlow")
    how = LAYOUTS[layout]
    stored = _stored(source)
    state, masked = _ours(stored, how, layout)
    arguments = {**how.options, **_deduced(state, masked, overrides), **overrides}
    if "var" not in state or bool((state["var"] == 1).all()):  # it is of any grid
        like = state["blocks.0.proj_in.weight"]
        state["var"] = like.new_ones(math.prod(arguments["grid"]), arguments["channels"])
    theirs = {ours: name for name, ours in how.names.items()}
    flow = _filled(arguments, state, f"of this {layout} checkpoint", theirs)
    channels = flow.shape.channels
    image_channels = image_channels or how.image_channels or channels
    patch = math.isqrt(channels // image_channels)
    if image_channels * patch**2 != channels:
        raise ValueError(
            f"tokens of {channels} features are no square patches of images of {image_channels} "
            "channels: give image_channels"
        )
    return PatchFlow(flow, patch, order or how.order)


def _stored(source: str | Path | Mapping[str, Any]) -> State:
    """The tensors of a state dict or its file, none of them of less than 32 bits."""
    name = "the mapping"
    if isinstance(source, str | Path):
        name = path = Path(source).expanduser()
        if path.is_dir():
            raise ValueError(
                f"{path} is a folder, perhaps of FSDP: make it one file with python -m "
                f"torch.distributed.checkpoint.format_utils dcp_to_torch {path} FILE"
            )
        source = _safetensors(path)[0] if path.suffix == ".safetensors" else load_whole(path)
    if not isinstance(source, Mapping):
        raise ValueError(f"{name} is no state dict but a {type(source).__name__}")
    for key, value in source.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{name} is no bare state dict: {key!r} is a {type(value).__name__}; give the "
                "state dict alone"
            )
    half = (torch.float16, torch.bfloat16)
    return {k: v.detach().float() if v.dtype in half else v.detach() for k, v in source.items()}


def _ours(stored: State, how: Layout, layout: str) -> tuple[State, int]:
    """Tensors by our names, and the rows of an attention mask or rotary table, 0 without."""
    state, masked, unknown = {}, 0, []
    for key, value in stored.items():
        ours = translated(key, how.names)
        if ours is not None:
            change = translated(ours, how.changes)
            state[ours] = change(value) if change else value
        elif any(matches(pattern, key) for pattern in how.dropped):
            masked = len(value)
        else:
            unknown.append(key)
    if unknown:
        raise ValueError(
            f"names that are not of a {layout} checkpoint: {_few(unknown)}; choose another "
            "layout, or take them out if they are no part of the flow"
        )
    return state, masked


def _deduced(state: State, masked: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``TokenFlow`` that shapes tell."""
    blocks = {int(k.split(".")[1]) for k in state if re.match(r"blocks\.\d+\.", k)}
    n = len(blocks)
    entry = state.get("blocks.0.proj_in.weight")
    if blocks != set(range(n)) or entry is None:
        raise ValueError(f"no flow: its blocks are {sorted(blocks)} and must be 0, 1, 2, ...")
    layers = [
        len({k.split(".")[3] for k in state if k.startswith(f"blocks.{b}.layers.")})
        for b in range(n)
    ]
    learned = state.get("blocks.0.positions")
    a_map = state.get("var", learned)
    tokens = math.prod(given.get("grid", (0,))) if a_map is None else len(a_map)
    side = math.isqrt(tokens)
    if "grid" not in given and (not tokens or side**2 != tokens):
        raise ValueError(f"{tokens or 'unknown'} tokens are no square grid: give grid")
    outputs = state.get("blocks.0.proj_out.bias")
    found = {
        "channels": entry.shape[1],
        "width": entry.shape[0],
        "grid": (side, side),
        "layers": layers,
        "positions": "rope" if learned is None else "learned",
        "rope_side": math.sqrt(tokens) if learned is None else None,
        "start_token": "blocks.0.first" in state,
        "final_norm": "blocks.0.norm.weight" in state,
        "volume_preserving": outputs is not None and len(outputs) == entry.shape[1],
    }
    return found | _condition(state, n, masked - tokens, given)


def _condition(state: State, n: int, ahead: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """The same of classes and prompts; ``ahead`` are the tokens in front, 0 or less unknown."""
    table, prompt = state.get("blocks.0.table"), state.get(f"blocks.{n - 1}.prompt.weight")
    if table is not None:
        return {"conditioning": "additive", "classes": len(table)}
    if prompt is None:
        return {"conditioning": "none", "classes": 0}
    found = {"conditioning": "prefix", "classes": 0}
    found["condition"] = "all" if "blocks.0.prompt.weight" in state else "deep"
    features = prompt.shape[1]
    if ahead == 1:
        return found | {"classes": features - 1}
    if ahead < 1 and "prompt" not in given and "classes" not in given:
        raise ValueError(f"no mask tells how long a prompt is: give prompt=(P, {features})")
    return found | ({"prompt": (ahead, features)} if ahead > 0 else {})


def _filled(
    arguments: Mapping[str, Any], state: State, what: str, theirs: Mapping[str, str]
) -> TokenFlow:
    """A flow with these weights, which it takes over: no second copy is made.

    Args:
        theirs: our names to those that the user knows.
    """
    with torch.device("meta"):
        flow = TokenFlow(**arguments)
    wanted = flow.state_dict()

    def known(name: str) -> str:
        return translated(name, theirs) or name

    for fault, names in (
        ("are missing", [k for k in wanted if k not in state]),
        ("have no place in a flow", [k for k in state if k not in wanted]),
    ):
        if names:
            raise ValueError(f"weights {what} {fault}: {_few([known(k) for k in names])}")
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            raise ValueError(
                f"weights {what} do not fit: {known(name)} is {tuple(tensor.shape)}, in a flow "
                f"with the other shapes and arguments it is {tuple(wanted[name].shape)}"
            )
    flow.load_state_dict(state, assign=True)
    for block in flow.blocks:
        if flow.shape.positions == "rope":
            block.tabulate()
    return flow


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


# ------------------------------------------------------------------------------ our own files
def export(model: TokenFlow | PatchFlow, path: str | Path) -> None:
    """Write a flow as safetensors: its weights, and all that is needed to build it again.

    The file appears under its name when it is whole.
    """
    from safetensors.torch import save_file

    model = model if isinstance(model, PatchFlow) else PatchFlow(model)
    about = {"flow": _arguments(model.flow), "patch": model.patch, "order": model.order}
    state = {k: v.contiguous().cpu() for k, v in model.flow.state_dict().items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file(state, temporary, {"format": "pt", "token_flow": json.dumps(about)})
    os.replace(temporary, path)


def load(path: str | Path) -> PatchFlow:
    """What ``export`` wrote.

    Raises:
        ValueError: the file is damaged or no exported flow.
    """
    path = Path(path).expanduser()
    state, metadata = _safetensors(path)
    try:
        about = json.loads(metadata["token_flow"])
        arguments = about["flow"]
        for key in ("grid", "prompt"):  # JSON has no tuples
            arguments[key] = arguments[key] and tuple(arguments[key])
        flow = _filled(arguments, state, f"in {path}", {})
        return PatchFlow(flow, about["patch"], about["order"])
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(
            f"{path} is no exported flow that this version knows: export it again"
        ) from None


def _arguments(flow: TokenFlow) -> dict[str, Any]:
    """Those of ``TokenFlow`` that make such a flow."""
    deep_only = flow.blocks[0].conditioning != flow.shape.conditioning
    return asdict(flow.shape) | {
        "layers": [len(block.layers) for block in flow.blocks],
        "condition": "deep" if deep_only else "all",
        "flip_first": flow.blocks[0].flip,
    }


def _safetensors(path: Path) -> tuple[State, dict[str, str]]:
    """Tensors and metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}") from None
