"""One block of an autoregressive flow: each token is scaled and shifted as those before it say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_modules.simflow.transformer import AdaLN, Cache, Layer, Rotation, rotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CONDITIONINGS", "Block", "Condition", "Shape"]

Tokens = Float[Tensor, "batch T C"]
Some = Float[Tensor, "batch n C"]

CONDITIONINGS = ("none", "additive", "adaln", "prefix")
_UNIT = 0.541324854612918  # softplus of it is 1


@dataclass(frozen=True)
class Shape:
    """What all blocks of a flow have in common; see ``TokenFlow`` for the meaning of each."""

    grid: tuple[int, int]
    channels: int
    width: int
    head_dim: int
    conditioning: str
    classes: int
    dropped: str
    prompt: tuple[int, int] | None
    positions: str
    start_token: bool
    scale: str
    soft_clip: float | None
    final_norm: bool
    volume_preserving: bool
    zero_bias: bool
    rope_side: float | None
    prompt_pairs: int | None

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]


@dataclass
class Condition:
    """What a label or prompt is to one block's network, computed once for all tokens.

    Attributes:
        added: (batch, 1, width), to every token.
        modulations: of each layer, six (batch, 1, width).
        head: shift and scale before the output.
        prefix: (batch, P, width), tokens in front of the image's.
        sharpness: (batch, 1, 1, 1), factor on attention logits (1 / temperature).
    """

    added: Tensor | None = None
    modulations: Sequence[tuple[Tensor, ...]] | None = None
    head: tuple[Tensor, ...] | None = None
    prefix: Tensor | None = None
    sharpness: Tensor | None = None

    @property
    def ahead(self) -> int:
        """Tokens in front of the image's."""
        return 0 if self.prefix is None else self.prefix.shape[1]


class Block(nn.Module):
    """``z_t = (x_t - m_t) / sigma_t`` with ``(sigma_t, m_t)`` a causal function of ``x_{<t}``.

    (Section 4.2; details of both code bases in sections 10 and 11.) Without a start token the
    first token passes unchanged.

    Args:
        layers: of the transformer.
        flip: the sequence is read from its end.
        conditional: it sees the condition; else it is built without one.
    """

    def __init__(self, shape: Shape, layers: int, flip: bool, conditional: bool) -> None:
        super().__init__()
        s, width = shape, shape.width
        self.shape, self.flip = shape, flip
        self.conditioning = s.conditioning if conditional else "none"
        adaln = self.conditioning == "adaln"
        self.proj_in = nn.Linear(s.channels, width)
        self.positions = None
        if s.positions == "learned":
            self.positions = nn.Parameter(0.01 * torch.randn(s.tokens, width))
        self.first = nn.Parameter(0.01 * torch.randn(1, 1, s.channels)) if s.start_token else None
        self.table = self.prompt = None
        if self.conditioning == "prefix":
            self.prompt = nn.Linear(s.prompt[1] if s.prompt else s.classes + 1, width)
        elif self.conditioning != "none":
            rows = s.classes + (s.dropped == "row")
            self.table = nn.Parameter(0.01 * torch.randn(rows, width))
        self.layers = nn.ModuleList(Layer(width, s.head_dim, adaln) for _ in range(layers))
        self.modulation = AdaLN(width, 2) if adaln else None
        self.norm = _final_norm(s, adaln)
        outputs = s.channels * (1 if s.volume_preserving else 2)
        self.proj_out = nn.Linear(width, outputs)
        nn.init.zeros_(self.proj_out.weight)
        if s.zero_bias:
            nn.init.zeros_(self.proj_out.bias)
        if s.positions == "rope":
            self.tabulate()

    def tabulate(self) -> None:
        """Compute the tables of rotary positions, which no state dict holds."""
        ahead = 0
        if self.conditioning == "prefix":
            ahead = self.shape.prompt[0] if self.shape.prompt else 1
        for name, table in zip(("cos", "sin"), _axial(self.shape, ahead), strict=True):
            self.register_buffer(name, table.to(self.proj_in.weight.device), persistent=False)

    # ------------------------------------------------------------------------- the condition
    def condition(self, y: Tensor | None, batch: int) -> Condition:
        """Of labels (batch,) int64, of which -1 are dropped, or prompts (batch, P, width)."""
        if self.conditioning == "none":
            return Condition()
        if y is None:
            y = torch.full((batch,), -1, device=self.proj_in.weight.device)
        if self.conditioning == "prefix":
            return Condition(prefix=self.prompt(self._prompts(y)))
        table = self.table
        if self.shape.dropped == "mean":  # a dropped label is the mean of all classes
            table = torch.cat([table, table.mean(0, keepdim=True)])
        c = table[y][:, None]  # row -1 is the last one
        if self.conditioning == "additive":
            return Condition(added=c)
        modulations = [layer.modulation(c) for layer in self.layers]
        return Condition(modulations=modulations, head=self.modulation(c))

    def _prompts(self, y: Tensor) -> Tensor:
        if y.is_floating_point():
            return y
        weight, classes = self.proj_in.weight, self.shape.classes
        if self.shape.prompt:  # of those a label can only say that they are dropped
            if (y >= 0).any():
                raise ValueError("this flow is conditioned on prompts: give these, not labels")
            return weight.new_zeros(len(y), *self.shape.prompt)
        one_hot = F.one_hot(torch.where(y < 0, classes, y), classes + 1)
        return one_hot[:, None].to(weight.dtype)

    # --------------------------------------------------------------------------- the network
    def network(
        self,
        x: Some,
        condition: Condition,
        caches: Sequence[Cache] | None = None,
        start: int = 0,
        tap: tuple[int, list[Tensor]] | None = None,
    ) -> tuple[Some, Some]:
        """``(log sigma, m)`` that a run of input tokens gives, the first of them at ``start``.

        Args:
            caches: of the layers; they hold what is before ``start`` and take in what is given.
            tap: after which layer hidden states (batch, n, width) are put into the list.
        """
        h = self.proj_in(x)
        if self.positions is not None:
            table = self.positions.flip(0) if self.flip else self.positions
            h = h + table[start : start + x.shape[1]]
        if condition.added is not None:
            h = h + condition.added
        first, ahead = start, condition.ahead
        if ahead and not start:
            h = torch.cat([condition.prefix, h], 1)
        elif ahead:
            first = start + ahead
        rotation = self._rotation(first, h.shape[1])
        for i, layer in enumerate(self.layers):
            modulation = condition.modulations[i] if condition.modulations else None
            cache = caches[i] if caches else None
            h = layer(h, modulation, rotation, cache, first, condition.sharpness)
            if tap and tap[0] == i:
                tap[1].append(h[:, -x.shape[1] :])
        h = h[:, -x.shape[1] :]
        if self.norm is not None:
            h = self.norm(h)
        if condition.head is not None:
            shift, scale = condition.head
            h = torch.addcmul(shift, h, scale)
        return self._scale_and_shift(self.proj_out(h).to(x.dtype))

    def _rotation(self, first: int, n: int) -> Rotation | None:
        if self.shape.positions != "rope":
            return None
        return self.cos[first : first + n], self.sin[first : first + n]

    def _scale_and_shift(self, out: Tensor) -> tuple[Some, Some]:
        if self.shape.soft_clip is not None:
            out = self.shape.soft_clip * torch.tanh(out / self.shape.soft_clip)
        if self.shape.volume_preserving:
            return torch.zeros_like(out), out
        a, m = out.chunk(2, -1)
        return (F.softplus(a + _UNIT).log() if self.shape.scale == "softplus" else a), m

    # ------------------------------------------------------------------------------ the block
    def window(
        self,
        before: Some,
        condition: Condition,
        begin: int = 0,
        caches: Sequence[Cache] | None = None,
        tap: tuple[int, list[Tensor]] | None = None,
    ) -> tuple[Float[Tensor, "batch _ C"], Float[Tensor, "batch _ C"]]:
        """``(log sigma, m)`` of a run of tokens from ``begin`` on.

        Args:
            before: the token before each of them, in the order in which this block reads; the
                first of all has none.
            caches: filled by windows up to ``begin``; without them ``begin`` must be 0.
        """
        if self.first is not None:
            # token t is predicted where token t - 1 is read
            if begin == 0:
                first = self.first.to(before.dtype).expand(len(before), -1, -1)
                before = torch.cat([first, before], 1)
            return self.network(before, condition, caches, begin, tap)
        if begin:
            return self.network(before, condition, caches, begin - 1, tap)
        if not before.shape[1]:
            zero = before.new_zeros(len(before), 1, before.shape[2])
            return zero, zero
        log_scale, m = self.network(before, condition, caches, 0, tap)
        return _shifted(log_scale), _shifted(m)

    def forward(
        self, x: Tokens, y: Tensor | None = None, tap: tuple[int, list[Tensor]] | None = None
    ) -> tuple[Tokens, Float[Tensor, " batch"]]:
        """``z`` and ``log |det dz/dx|``, nats, summed over each sample's tokens and channels."""
        x = self.ordered(x)
        # hidden states are wanted of the last token too, although nothing comes after it
        before = x if tap and self.first is None else x[:, :-1]
        log_scale, m = self.window(before, self.condition(y, len(x)), tap=tap)
        log_scale, m = log_scale[:, : x.shape[1]], m[:, : x.shape[1]]
        z = (x - m) * torch.exp(-log_scale)
        if tap and self.flip:
            tap[1][-1] = tap[1][-1].flip(1)
        return self.ordered(z), -log_scale.sum((1, 2))

    def ordered(self, x: Tokens) -> Tokens:
        """From the order of the image to the one in which this block reads, or back."""
        return x.flip(1) if self.flip else x


def _shifted(x: Some) -> Float[Tensor, "batch n+1 C"]:
    """A zero in front: the first token has nothing before it."""
    return F.pad(x, (0, 0, 1, 0))


def _final_norm(s: Shape, adaln: bool) -> nn.Module | None:
    if adaln:
        return nn.LayerNorm(s.width, elementwise_affine=False)
    return nn.RMSNorm(s.width, eps=1e-6) if s.final_norm else None


def _axial(s: Shape, ahead: int) -> Rotation:
    """Rows and columns of the image's tokens; in a flow with prefixes, theirs as a third axis.

    Blocks that do not see the prefix have that axis too, at zero. All positions are measured in
    tokens of a square grid of ``rope_side``, along which a prompt is spread as well (STARFlow).
    """
    pairs, (h, w) = s.head_dim // 2, s.grid
    own = math.sqrt(h * w)
    side = s.rope_side or own
    index = torch.arange(s.tokens)
    where = torch.stack([index // w, index % w], 1).double() * (side / own)
    if s.conditioning != "prefix":
        return rotations(where, (pairs - pairs // 2, pairs // 2))
    positions = torch.zeros(ahead + s.tokens, 3, dtype=torch.double)
    positions[ahead:, :2] = where
    positions[:ahead, 2] = torch.arange(ahead).double() * (side / max(ahead, 1))
    third = pairs // 4 if s.prompt_pairs is None else s.prompt_pairs
    rest = (pairs - third) // 2
    return rotations(positions, (pairs - third - rest, rest, third))
