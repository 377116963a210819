"""The network e_theta(y, s) of the transport experiments: an MLP over frozen Fourier features."""

import math
from collections.abc import Sequence

from lightning_modules.precision import bf16

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["MLP", "FourierFeatures"]


class FourierFeatures(nn.Module):
    """``v -> [sin(2 pi B v), cos(2 pi B v)]`` with a frozen random matrix ``B``.

    The authors draw entries with standard deviation 0.01 and multiply by ten, so the effective
    standard deviation is 0.1; taking "scale 10" at its word would be a hundred times too much.
    """

    def __init__(self, features: int, frequencies: int = 256, std: float = 0.1) -> None:
        super().__init__()
        # a buffer, saved with the model: frozen, but part of what the network is
        self.register_buffer("matrix", std * torch.randn(frequencies, features))

    def forward(self, v: Float[Tensor, "batch features"]) -> Float[Tensor, "batch twice"]:
        with bf16(v, False):  # it has no digits for a phase
            phase = 2 * math.pi * (v @ self.matrix.T)
        return torch.cat([phase.sin(), phase.cos()], dim=-1)


class MLP(nn.Module):
    """The authors' MLP: time embedding added to each hidden layer, LayerNorm, sigmoid.

    With the published widths (512, 256) and 256 frequencies it has 1,314,816 + 257 D trainable
    parameters. No division by std and no activation at the end.

    Args:
        dim: dimension D of the data.
        widths: hidden widths.
        frequencies: rows of each Fourier matrix; embeddings are twice as wide.
        embed_x: Fourier features of y too; without, y enters through a dense layer.
        zero_output: start with ``e_theta = 0``, a network that stores nothing.

    Raises:
        ValueError: (at a call) points of another dimension.
    """

    def __init__(
        self,
        dim: int,
        widths: Sequence[int] = (512, 256),
        frequencies: int = 256,
        embed_x: bool = True,
        zero_output: bool = False,
    ) -> None:
        super().__init__()
        self.dim = dim
        emb = 2 * frequencies
        hidden = emb if embed_x else dim
        self.fourier_s = FourierFeatures(1, frequencies)
        self.fourier_x = FourierFeatures(dim, frequencies) if embed_x else nn.Identity()
        self.embed_s = nn.Linear(emb, emb)
        self.embed_x = nn.Linear(hidden, hidden)
        fan_in = [hidden, *widths[:-1]]
        self.from_s = nn.ModuleList(nn.Linear(emb, w) for w in widths)
        self.from_h = nn.ModuleList(nn.Linear(i, w) for i, w in zip(fan_in, widths, strict=True))
        self.norm = nn.ModuleList(nn.LayerNorm(w, eps=1e-6) for w in widths)
        self.out = nn.Linear(widths[-1], dim)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                lecun_normal_(layer)
        if zero_output:
            nn.init.zeros_(self.out.weight)

    def forward(
        self, y: Float[Tensor, "batch dim"], s: Float[Tensor, " #batch"]
    ) -> Float[Tensor, "batch dim"]:
        if y.shape[-1] != self.dim:
            raise ValueError(
                f"the network takes D = {self.dim} but the data have D = {y.shape[-1]}: "
                f"set model.init_args.net.init_args.dim to {y.shape[-1]}"
            )
        emb = self.embed_s(self.fourier_s(s[:, None])).sigmoid()
        h = self.embed_x(self.fourier_x(y)).sigmoid()
        for from_h, from_s, norm in zip(self.from_h, self.from_s, self.norm, strict=True):
            h = norm(from_h(h) + from_s(emb)).sigmoid()
        return self.out(h)


def lecun_normal_(layer: nn.Linear) -> None:
    """Weights as ``lecun_weight_``, biases zero (Flax's default)."""
    lecun_weight_(layer.weight, layer.in_features)
    nn.init.zeros_(layer.bias)


def lecun_weight_(weight: Tensor, fan_in: int) -> None:
    """Normal, truncated at two sigma, with variance 1/fan_in."""
    # 0.8796 is the standard deviation of a standard normal truncated at +-2
    std = fan_in**-0.5 / 0.87962566103423978
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
