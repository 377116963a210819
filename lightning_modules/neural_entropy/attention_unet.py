"""The network e_theta(y, s, c) of the CIFAR-10 experiments: a U-Net with self-attention."""

import math
from collections.abc import Sequence

from lightning_modules.neural_entropy.networks import lecun_weight_
from lightning_modules.neural_entropy.unet import (
    Affine,
    group_count,
    is_cpu,
    norm_silu,
)

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AttentionUNet"]


class AttentionUNet(nn.Module):
    """Residual blocks modulated by time and class, with attention at the coarse resolutions.

    The published sizes (the defaults) have 42,096,131 trainable parameters. The last layer, the
    second convolution of each block and what leaves each attention start at zero, and so does
    ``e_theta``: an untrained network stores nothing.

    Args:
        image_size: height and width, halved from each level to the next.
        in_channels: channels of the image.
        base_channels: width, times ``multipliers`` at each level from fine to coarse.
        num_res_blocks: residual blocks of a level on the way down; one more on the way up.
        attention_at: resolutions with attention after every residual block.
        dropout: within residual blocks, while training.
        classes: number of classes, 0 for an unconditional network.
        embedding: width of the time embedding, four times ``base_channels`` unless given.

    Raises:
        ValueError: sizes that cannot be halved; (at a call) images of another size, labels
            missing where there are classes or given where there are none.
    """

    def __init__(
        self,
        image_size: int = 32,
        in_channels: int = 3,
        base_channels: int = 256,
        multipliers: Sequence[int] = (1, 1, 1),
        num_res_blocks: int = 2,
        attention_at: Sequence[int] = (16, 8),
        dropout: float = 0.2,
        classes: int = 10,
        embedding: int | None = None,
    ) -> None:
        super().__init__()
        levels = len(multipliers)
        sizes = [image_size >> k for k in range(levels)]
        if image_size % 2 ** (levels - 1):
            raise ValueError(
                f"image_size {image_size} cannot be halved {levels - 1} times: "
                f"give a multiple of {2 ** (levels - 1)} or fewer multipliers"
            )
        if missing := [a for a in attention_at if a not in sizes]:
            raise ValueError(f"attention_at {missing} is not among the resolutions {sizes}")
        if base_channels % 2:
            raise ValueError(f"base_channels {base_channels} is odd: give an even width")
        self.shape, self.classes = (in_channels, image_size, image_size), classes
        width = embedding or 4 * base_channels
        half = base_channels // 2
        rates = torch.exp(-math.log(1e4) / max(half - 1, 1) * torch.arange(half))
        self.register_buffer("rates", rates, persistent=False)
        self.embed = nn.Sequential(
            nn.Linear(base_channels, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.embed_class = nn.Linear(classes, width) if classes else None

        channels = [base_channels * m for m in multipliers]
        self.enter = nn.Conv2d(in_channels, base_channels, 3, padding=1)
        now, skips, self.films = base_channels, [base_channels], []

        def block(fan_in: int, fan_out: int, attention: bool) -> Block:
            self.films.append(2 * fan_out)
            return Block(fan_in, fan_out, dropout, attention)

        self.down = nn.ModuleList()
        for k, (c, size) in enumerate(zip(channels, sizes, strict=True)):
            level = nn.ModuleList()
            for _ in range(num_res_blocks):
                level.append(block(now, c, size in attention_at))
                now = c
                skips.append(now)
            if k < levels - 1:
                level.append(nn.Conv2d(now, now, 3, stride=2))
                skips.append(now)
            self.down.append(level)
        self.middle = nn.ModuleList([block(now, now, True), block(now, now, False)])
        self.up = nn.ModuleList()
        for k, (c, size) in reversed(list(enumerate(zip(channels, sizes, strict=True)))):
            level = nn.ModuleList()
            for _ in range(num_res_blocks + 1):
                level.append(block(now + skips.pop(), c, size in attention_at))
                now = c
            if k:
                level.append(nn.Conv2d(now, now, 3, padding=1))
            self.up.append(level)
        self.film = nn.Linear(width, sum(self.films))  # scale and shift of all blocks at once
        self.norm = Affine(now)
        self.leave = nn.Conv2d(now, in_channels, 3, padding=1)
        self._initialise()

    def _initialise(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                lecun_weight_(layer.weight, layer.weight[0].numel())
                nn.init.zeros_(layer.bias)
        for block in (m for m in self.modules() if isinstance(m, Block)):
            nn.init.zeros_(block.second.weight)
            if isinstance(block.attention, Attention):
                nn.init.zeros_(block.attention.project.weight)
        nn.init.zeros_(self.leave.weight)

    def forward(
        self,
        y: Float[Tensor, "batch channels height width"],
        s: Float[Tensor, " batch_or_1"],
        c: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        emb = self._embedding(y, s, c)
        films = iter(self.film(F.silu(emb)).split(self.films, dim=-1))
        # every convolution is fastest, and every group norm here, with channels innermost
        h = self.enter(y).contiguous(memory_format=torch.channels_last)
        skips = [h]
        for level in self.down:
            for layer in level:
                if isinstance(layer, Block):
                    h = layer(h, next(films))
                else:  # "SAME" padding at stride 2: nothing before the first row and column
                    h = layer(F.pad(h, (0, 1, 0, 1)))
                skips.append(h)
        for block in self.middle:
            h = block(h, next(films))
        for level in self.up:
            for layer in level:
                if isinstance(layer, Block):
                    h = layer(torch.cat([h, skips.pop()], dim=1), next(films))
                else:
                    h = layer(F.interpolate(h, scale_factor=2, mode="nearest"))
        return self.leave(normalised(h, self.norm.weight[None], self.norm.bias[None]))

    def _embedding(self, y: Tensor, s: Tensor, c: Tensor | None) -> Tensor:
        """(B or 1, width): of the time, and of the class if there are any."""
        if y.shape[1:] != self.shape:
            raise ValueError(
                f"the network takes images of {' x '.join(map(str, self.shape))}, not "
                f"{' x '.join(map(str, y.shape[1:]))}: set in_channels and image_size of "
                "model.init_args.net.init_args"
            )
        # products of single numbers, so autocast leaves them in full precision
        phase = 1000 * s[:, None] * self.rates
        emb = self.embed(torch.cat([phase.sin(), phase.cos()], dim=-1))
        if not self.classes:
            return emb
        if c is None:
            raise ValueError(
                f"the network has {self.classes} classes but the data have no labels: "
                "give labels, or set model.init_args.net.init_args.classes to 0"
            )
        return emb + self.embed_class(F.one_hot(c, self.classes).to(y.dtype))


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, modulated by a film; then attention, if wanted."""

    def __init__(self, fan_in: int, channels: int, dropout: float, attention: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = Affine(fan_in), Affine(channels)
        self.first = nn.Conv2d(fan_in, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(fan_in, channels, 1) if fan_in != channels else nn.Identity()
        self.attention = Attention(channels) if attention else nn.Identity()
        self.dropout = dropout

    def forward(self, x: Float[Tensor, "b i h w"], film: Float[Tensor, "b_or_1 twice"]) -> Tensor:
        """``film`` is scale and shift: ``group_norm(h) * (1 + scale) + shift``."""
        scale, shift = film.chunk(2, dim=-1)
        # one weight and bias a sample, so the film costs no pass over the image; nor does the
        # convolution's bias, which the norm adds
        weight = self.norm2.weight + self.norm2.weight * scale
        bias = self.norm2.bias + self.norm2.bias * scale + shift
        h = normalised(x, self.norm1.weight[None], self.norm1.bias[None])
        h = F.conv2d(h, self.first.weight, padding=1)
        h = normalised(h, weight, bias, self.first.bias[None])
        h = self.second(F.dropout(h, self.dropout, self.training))
        return self.attention(self.shortcut(x) + h)


class Attention(nn.Module):
    """Self-attention of one head among pixels, added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Affine(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        h = self.qkv(normalised(x, self.norm.weight[None], self.norm.bias[None], act=False))
        q, k, v = h.permute(0, 2, 3, 1).flatten(1, 2).chunk(3, dim=-1)  # (B, pixels, channels)
        if is_cpu(h):
            # with so few pixels plain products are as fast as the fused kernel in float32, and
            # three times as fast in bfloat16
            h = (q.shape[-1] ** -0.5 * (q @ k.transpose(1, 2))).softmax(-1) @ v
        else:
            h = F.scaled_dot_product_attention(*(t[:, None] for t in (q, k, v)))[:, 0]
        return x + self.project(h.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2))


def normalised(
    x: Float[Tensor, "b c h w"],
    weight: Float[Tensor, "b_or_1 c"],
    bias: Float[Tensor, "b_or_1 c"],
    shift: Float[Tensor, "1 c"] | None = None,
    act: bool = True,
) -> Float[Tensor, "b c h w"]:
    """``silu(group_norm(x + shift) * weight + bias)``; without ``act``, no SiLU."""
    shift = x.new_zeros(1, x.shape[1]) if shift is None else shift
    rows = x.permute(0, 2, 3, 1)
    return norm_silu(rows, shift, weight, bias, group_count(x.shape[1]), act).permute(0, 3, 1, 2)
