"""The layers of an autoregressive flow's network, over whole sequences or a few tokens at once."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AdaLN", "Cache", "Layer", "Rotation", "rotations"]

Hidden = Float[Tensor, "batch n width"]
Heads = Float[Tensor, "batch heads n head_dim"]
Rotation = tuple[Float[Tensor, "n pairs"], Float[Tensor, "n pairs"]]


@dataclass
class Cache:
    """Keys and values of the tokens so far, in memory that is allocated once.

    Attributes:
        keys, values: (batch, heads, at least length, head_dim), filled from the front.
    """

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(cls, batch: int, heads: int, length: int, head_dim: int, like: Tensor) -> "Cache":
        # heads a power of two apart share few places in a processor's cache: up to a fifth slower
        shape = (batch, heads, length + 4, head_dim)
        return cls(like.new_empty(shape), like.new_empty(shape))

    def extend(self, k: Heads, v: Heads, start: int) -> tuple[Tensor, Tensor]:
        """Write the tokens from ``start`` on; keys and values of all tokens up to the last one."""
        end = start + k.shape[2]
        self.keys[:, :, start:end] = k
        self.values[:, :, start:end] = v
        return self.keys[:, :, :end], self.values[:, :, :end]


class Layer(nn.Module):
    """``x + Attn(LN(x))``, ``x + MLP(LN(x))``: pre-norm, exact GELU, ratio 4 (section 10).

    With ``adaln`` the norms have no weights of their own: shift, scale and gate of both branches
    come from a condition, by a linear map that starts at zero (DiT's adaLN-zero, section 4.3).
    """

    def __init__(self, width: int, head_dim: int, adaln: bool = False) -> None:
        super().__init__()
        self.heads = width // head_dim
        self.norm1 = nn.LayerNorm(width, elementwise_affine=not adaln)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=not adaln)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.modulation = AdaLN(width, 6) if adaln else None

    def forward(
        self,
        x: Hidden,
        modulation: tuple[Tensor, ...] | None = None,
        rotation: Rotation | None = None,
        cache: Cache | None = None,
        start: int = 0,
        sharpness: Tensor | None = None,
    ) -> Hidden:
        """
        Args:
            modulation: shift, scale, gate of the attention, then of the MLP.
            rotation: of the tokens given.
            cache: of the tokens before ``start``; it takes in the ones given.
            sharpness: (batch, 1, 1, 1), factor on the attention's logits.
        """
        if modulation is None:
            x = x + self._attend(self.norm1(x), rotation, cache, start, sharpness)
            return x + self.down(F.gelu(self.up(self.norm2(x))))
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        h = torch.addcmul(shift1, self.norm1(x), scale1)
        x = torch.addcmul(x, gate1, self._attend(h, rotation, cache, start, sharpness))
        h = torch.addcmul(shift2, self.norm2(x), scale2)
        return torch.addcmul(x, gate2, self.down(F.gelu(self.up(h))))

    def _attend(
        self,
        h: Hidden,
        rotation: Rotation | None,
        cache: Cache | None,
        start: int,
        sharpness: Tensor | None,
    ) -> Hidden:
        n = h.shape[1]
        q, k, v = self.qkv(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if rotation is not None:
            q, k = _rotated(q, rotation), _rotated(k, rotation)
        if sharpness is not None:
            q = q * sharpness.to(q.dtype)
        if cache is not None:
            k, v = cache.extend(k, v, start)
        mask = None
        if start and n > 1:  # each token sees those before the window, and those of it before it
            mask = torch.ones(n, start + n, dtype=torch.bool, device=h.device).tril(start)
        causal = not start and n > 1
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.proj(y.transpose(1, 2).flatten(2))


class AdaLN(nn.Module):
    """Shifts, scales (as 1 + scale) and gates from a condition; all of them zero at first."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, condition: Float[Tensor, "batch 1 width"]) -> tuple[Tensor, ...]:
        """``parts`` tensors (batch, 1, width): shift, 1 + scale, gate, and so on."""
        parts = list(self.linear(F.silu(condition)).chunk(self.parts, -1))
        parts[1::3] = [1 + scale for scale in parts[1::3]]
        return tuple(parts)


# -------------------------------------------------------------------------- rotary positions
def rotations(
    positions: Float[Tensor, "n axes"], pairs: tuple[int, ...], theta: float = 1e4
) -> Rotation:
    """Cosines and sines (n, sum of pairs) of axial rotary positions.

    Args:
        positions: of each token on each axis.
        pairs: pairs of features that each axis turns, at frequencies ``theta^(-i / pairs)``.
    """
    angles = torch.cat(
        [
            positions[:, axis, None].double() * theta ** (-torch.arange(p).double() / p)
            for axis, p in enumerate(pairs)
        ],
        1,
    )
    return angles.cos().float(), angles.sin().float()


def _rotated(x: Heads, rotation: Rotation) -> Heads:
    """Neighbouring features (2i, 2i + 1) turned by the i-th angle."""
    cos, sin = (part.to(x.dtype) for part in rotation)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
