"""Autoregressive flows on token sequences: the TarFlow and STARFlow families in one model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_modules.simflow.block import CONDITIONINGS, Block, Shape

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["Encoded", "TokenFlow"]

# what the children of a block are counted as (section 4.3)
_PARTS = {
    "layers": "layers",
    "modulation": "adaLN heads",
    "table": "class tables",
    "prompt": "prompts",
    "positions": "positions",
    "first": "start tokens",
    "norm": "final norms",
    "proj_in": "in/out projections",
    "proj_out": "in/out projections",
}

Tokens = Float[Tensor, "batch T C"]
Labels = Int[Tensor, " batch"] | Float[Tensor, "batch P E"] | None
PerSample = Float[Tensor, " batch"]


@dataclass
class Encoded:
    """What a flow makes of a batch.

    Attributes:
        z: latent tokens, in the order of the image.
        log_prob: nats, summed over all dimensions, ``log N(z; 0, var) + log |det dz/dx|``.
        logdet: its second part.
        hidden: (batch, T, width), of the layer that was asked for, in the order of the image.
    """

    z: Tokens
    log_prob: PerSample
    logdet: PerSample
    hidden: Tensor | None = None


class TokenFlow(nn.Module):
    """``z = f(x | y)``, block after block, each reading the tokens in the other direction.

    Args:
        channels: C, of a token.
        grid: height and width of the token map; tokens are row-major.
        width: of the transformers.
        layers: of each block, from data to noise. Deep-shallow: the last one has most of them.
        head_dim: of an attention head.
        conditioning: ``none``; ``additive``, a class embedding added to each token (TarFlow);
            ``adaln``, adaLN-zero with gates (SimFlow); ``prefix``, tokens in front (STARFlow).
        classes: labels 0 to classes - 1; -1 is a dropped label.
        dropped: what a dropped label is: ``row``, of its own, or ``mean`` of all (TarFlow).
        prompt: (P, E) where the prefix is not one label but P tokens of E features.
        condition: which blocks see the condition: ``all`` or ``deep``, the last one.
        positions: ``learned``, a table per block, or ``rope``, axial rotary positions.
        rope_side: side of the square grid in whose tokens rotary positions are measured, so that
            weights fit other grids; the grid's own, the root of T, without.
        prompt_pairs: with ``prefix`` and ``rope``, pairs of a head's features that turn with the
            place in the prompt; a quarter without (STARFlow: 8 of 32).
        start_token: a learned token is read first, so that all tokens are transformed (STARFlow);
            without, the first one passes unchanged (TarFlow).
        scale: ``exp`` or ``softplus`` (1 at zero, STARFlow).
        soft_clip: c of ``c tanh(o / c)`` on the networks' outputs (STARFlow: 4).
        final_norm: an RMS norm before the output, where adaLN has none.
        volume_preserving: shifts only; the prior's variance then follows the data.
        flip_first: the first block reads from the end, not the second one. With six blocks the
            deep one then reads the image from its beginning.
        zero_bias: blocks start as the identity; without, TarFlow's random biases.

    Raises:
        ValueError: an unknown choice, a width that heads do not divide, or classes that are
            missing.
    """

    def __init__(
        self,
        channels: int = 64,
        grid: tuple[int, int] = (16, 16),
        width: int = 1152,
        layers: Sequence[int] = (2, 2, 2, 2, 2, 46),
        head_dim: int = 64,
        conditioning: str = "adaln",
        classes: int = 1000,
        dropped: str = "row",
        prompt: tuple[int, int] | None = None,
        condition: str = "all",
        positions: str = "learned",
        start_token: bool = False,
        scale: str = "exp",
        soft_clip: float | None = None,
        final_norm: bool = False,
        volume_preserving: bool = False,
        flip_first: bool = True,
        zero_bias: bool = True,
        rope_side: float | None = None,
        prompt_pairs: int | None = None,
    ) -> None:
        super().__init__()
        for key, value, known in (
            ("conditioning", conditioning, CONDITIONINGS),
            ("dropped", dropped, ("row", "mean")),
            ("condition", condition, ("all", "deep")),
            ("positions", positions, ("learned", "rope")),
            ("scale", scale, ("exp", "softplus")),
        ):
            if value not in known:
                raise ValueError(f"unknown {key} {value!r}: choose one of {', '.join(known)}")
        if width % head_dim or head_dim % 2:
            raise ValueError(f"heads of {head_dim} features do not divide a width of {width}")
        if conditioning == "prefix" and (prompt_pairs or 0) > head_dim // 2:
            raise ValueError(
                f"heads of {head_dim} features have {head_dim // 2} pairs to turn: prompt_pairs "
                f"cannot be {prompt_pairs}"
            )
        if conditioning != "none" and not prompt and classes < 1:
            raise ValueError(f"{conditioning} conditioning needs classes: set classes")
        if not layers:
            raise ValueError("a flow needs at least one block: set layers")
        shape = Shape(
            tuple(grid), channels, width, head_dim, conditioning, classes, dropped, prompt,
            positions, start_token, scale, soft_clip, final_norm, volume_preserving, zero_bias,
            rope_side, prompt_pairs,
        )  # fmt: skip
        self.shape = shape
        self.blocks = nn.ModuleList(
            Block(
                shape,
                depth,
                flip=(k % 2 == 0) == flip_first,
                conditional=condition == "all" or k == len(layers) - 1,
            )
            for k, depth in enumerate(layers)
        )
        # of the prior, per token and channel; ones, but where shifts alone cannot change a scale
        self.register_buffer("var", torch.ones(shape.tokens, channels))

    @property
    def dims(self) -> int:
        """Dimensions of a sample, N = T C."""
        return self.shape.tokens * self.shape.channels

    def parts(self) -> dict[str, int]:
        """Numbers of parameters by what they are for, of all blocks together."""
        found = dict.fromkeys(_PARTS.values(), 0)
        for name, weight in self.named_parameters():
            found[_PARTS[name.split(".")[2]]] += weight.numel()  # blocks.k.child
        return {part: n for part, n in found.items() if n}

    def forward(
        self,
        x: Tokens,
        y: Labels = None,
        tap: tuple[int, int] | None = None,
        trace: list[Tokens] | None = None,
    ) -> Encoded:
        """Latents and log-density.

        Args:
            y: labels, -1 where dropped, or prompts; None drops all.
            tap: block and layer whose hidden states are wanted.
            trace: what each block is given, and the latents, are appended to it.
        """
        hidden: list[Tensor] = []
        total = x.new_zeros(len(x))
        for k, block in enumerate(self.blocks):
            if trace is not None:
                trace.append(x)
            wanted = (tap[1], hidden) if tap and tap[0] == k else None
            x, logdet = block(x, y, wanted)
            total = total + logdet
        if trace is not None:
            trace.append(x)
        log_prob = self.prior(x) + total
        return Encoded(x, log_prob, total, hidden[0] if hidden else None)

    def prior(self, z: Tokens) -> PerSample:
        """``log N(z; 0, var)``, nats."""
        return -0.5 * (z.square() / self.var + torch.log(2 * math.pi * self.var)).sum((1, 2))

    def log_prob(self, x: Tokens, y: Labels = None) -> PerSample:
        """Nats, summed over all dimensions."""
        return self(x, y).log_prob

    @torch.no_grad()
    def follow(self, z: Tokens, rate: float = 0.1) -> None:
        """Move the prior's variance towards the batch's (TarFlow's, volume preserving only)."""
        if self.shape.volume_preserving:
            # another tensor, for the loss still needs the old one
            self.var = self.var.lerp(z.square().mean(0).to(self.var.dtype), rate)
