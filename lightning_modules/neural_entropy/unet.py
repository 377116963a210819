"""The network e_theta(y, s) of the MNIST experiments: a U-Net of unpadded 3x3 convolutions.

On a CPU the channels lie innermost and a strided convolution is one matrix product where that is
faster: *gather* the 3x3 patches, then multiply; transposed, multiply, then *scatter* the patches.
Other devices take PyTorch's layers.
"""

import math
from collections.abc import Sequence
from typing import Any

from lightning_modules.neural_entropy.networks import lecun_normal_, lecun_weight_

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ConvUNet"]

EPS = 1e-6  # of every GroupNorm
ROWS = 64  # images a call without gradients: more, and their patches leave a core's cache


class ConvUNet(nn.Module):
    """Four stages down and four up: convolution, time embedding, GroupNorm, SiLU.

    With the published widths it has 1,115,297 trainable parameters and 128 frozen frequencies.
    No padding: 28 -> 26 -> 12 -> 5 -> 2 and back; no division by std at the end.

    Args:
        channels: widths of the stages, at least two.
        embedding: width of the time embedding, sines and cosines together.
        in_channels: channels of the image.
        zero_output: start with ``e_theta = 0``, a network that stores nothing.

    Raises:
        ValueError: fewer than two widths or an odd embedding; (at a call) another number of
            channels, or an image that is too small for the stages.
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 128, 256),
        embedding: int = 256,
        in_channels: int = 1,
        zero_output: bool = False,
    ) -> None:
        super().__init__()
        if len(channels) < 2 or embedding % 2:
            raise ValueError(
                f"channels {tuple(channels)}, embedding {embedding}: give at least two widths "
                "and an even embedding"
            )
        self.in_channels = in_channels
        self.smallest = 2 ** len(channels) + 1  # the image that ends as one pixel
        # frozen, but part of what the network is
        self.register_buffer("frequencies", 30 * torch.randn(embedding // 2))
        self.embed = nn.Linear(embedding, embedding)
        up = channels[-2::-1]
        self.widths = [*channels, *up]
        self.shift = nn.Linear(embedding, sum(self.widths))  # the time's part in every stage
        fan_in = [in_channels, *channels[:-1]]
        self.down = nn.ModuleList(
            Stage(i, c, stride=2 if k else 1, groups=32 if k else 4)
            for k, (i, c) in enumerate(zip(fan_in, channels, strict=True))
        )
        fan_in = [channels[-1], *(2 * c for c in up[:-1])]
        self.up = nn.ModuleList(
            Stage(i, c, stride=2, groups=32, transposed=True)
            for i, c in zip(fan_in, up, strict=True)
        )
        self.out = nn.Parameter(torch.empty(3, 3, in_channels, 2 * channels[0]))
        self.bias = nn.Parameter(torch.zeros(in_channels))
        for layer in (self.embed, self.shift):
            lecun_normal_(layer)
        if zero_output:
            nn.init.zeros_(self.out)
        else:
            lecun_weight_(self.out, 9 * 2 * channels[0])

    def forward(
        self, y: Float[Tensor, "batch channels height width"], s: Float[Tensor, " batch_or_1"]
    ) -> Float[Tensor, "batch channels height width"]:
        self._check(y)
        if is_cpu(y) and len(y) > ROWS and not torch.is_grad_enabled():
            times = s.expand(len(y)).split(ROWS)
            return torch.cat([self(*part) for part in zip(y.split(ROWS), times, strict=True)])
        # products of single numbers, so autocast leaves them in full precision
        phase = 2 * math.pi * (s[:, None] * self.frequencies)
        emb = F.silu(self.embed(torch.cat([phase.sin(), phase.cos()], dim=-1)))
        shifts = iter(self.shift(emb).split(self.widths, dim=-1))
        h, skips = y.permute(0, 2, 3, 1), []
        for stage in self.down:
            h = stage(h, next(shifts))
            skips.append(h)
        h = skips.pop()
        for k, stage in enumerate(self.up):
            joined = torch.cat([h, skips.pop()], dim=-1) if k else h
            h = stage(joined, next(shifts), skips[-1].shape[1:3])
        return self._output(h, skips.pop(), y.shape[2:]) + self.bias[:, None, None]

    def _output(self, h: Tensor, skip: Tensor, size: torch.Size) -> Tensor:
        """The last transposed convolution, of stride 1."""
        if not is_cpu(h):
            joined = torch.cat([h, skip], dim=-1).permute(0, 3, 1, 2)
            return F.conv_transpose2d(joined, self.out.permute(3, 2, 0, 1))
        # so few channels come out that two products are cheaper than to join what goes in, and
        # that pixels had better lie innermost
        patches = sum(
            (w @ v.flatten(0, 2).T).unflatten(1, v.shape[:3])
            for v, w in zip((h, skip), self.out.flatten(0, 2).chunk(2, dim=1), strict=True)
        )
        return Scatter.apply(patches.permute(1, 2, 3, 0), 1, size).permute(0, 3, 1, 2)

    def _check(self, y: Tensor) -> None:
        if y.shape[1] != self.in_channels:
            raise ValueError(
                f"the network takes images of {self.in_channels} channels, not {y.shape[1]}: "
                f"set model.init_args.net.init_args.in_channels to {y.shape[1]}"
            )
        if min(y.shape[2:]) < self.smallest:
            raise ValueError(
                f"an image of {y.shape[2]} x {y.shape[3]} is too small for {len(self.down)} "
                f"stages: give {self.smallest} x {self.smallest} or more, or fewer channels"
            )


class Affine(nn.Module):
    """Weight and bias of a GroupNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))


class Stage(nn.Module):
    """A 3x3 convolution without padding or bias, plus a shift, then GroupNorm and SiLU.

    Images are (B, height, width, channels). The kernel of a convolution is
    (out, row, column, in), that of a transposed one (row, column, out, in).
    """

    def __init__(
        self, fan_in: int, channels: int, stride: int, groups: int, transposed: bool = False
    ) -> None:
        super().__init__()
        shape = (3, 3, channels, fan_in) if transposed else (channels, 3, 3, fan_in)
        self.kernel = nn.Parameter(torch.empty(shape))
        lecun_weight_(self.kernel, 9 * fan_in)
        self.norm = Affine(channels)
        self.groups = group_count(channels, groups)
        self.stride, self.transposed = stride, transposed

    def forward(self, x: Tensor, shift: Tensor, size: torch.Size | None = None) -> Tensor:
        """``shift`` (B or 1, channels); ``size`` is what a transposed convolution ends in."""
        h = self._transposed(x, size) if self.transposed else self._convolved(x)
        return norm_silu(h, shift, self.norm.weight[None], self.norm.bias[None], self.groups)

    def _convolved(self, x: Tensor) -> Tensor:
        if self.stride > 1 and by_patches(x):
            return product(Gather.apply(x, self.stride), self.kernel.flatten(1))
        kernel = self.kernel.permute(0, 3, 1, 2)
        return F.conv2d(x.permute(0, 3, 1, 2), kernel, stride=self.stride).permute(0, 2, 3, 1)

    def _transposed(self, x: Tensor, size: torch.Size) -> Tensor:
        if by_patches(x):
            return Scatter.apply(product(x, self.kernel.flatten(0, 2)), self.stride, size)
        more = [n - self.stride * (m - 1) - 3 for n, m in zip(size, x.shape[1:3], strict=True)]
        kernel = self.kernel.permute(3, 2, 0, 1)
        h = F.conv_transpose2d(
            x.permute(0, 3, 1, 2), kernel, stride=self.stride, output_padding=more
        )
        return h.permute(0, 2, 3, 1)


def is_cpu(x: Tensor) -> bool:
    """Whether our own kernels are the faster ones."""
    return x.device.type == "cpu"


def is_low(x: Tensor) -> bool:
    """Whether products of x are taken in bfloat16."""
    return x.dtype == torch.bfloat16 or torch.is_autocast_enabled(x.device.type)


def by_patches(x: Float[Tensor, "b h w c"]) -> bool:
    """Whether to gather or scatter patches: in float32, only images of few pixels gain by it."""
    return is_cpu(x) and (is_low(x) or x.shape[1] * x.shape[2] < 100)


def group_count(channels: int, most: int = 32) -> int:
    """The most groups that divide the channels: narrow networks have fewer than the authors'."""
    return max(g for g in range(1, most + 1) if channels % g == 0)


def product(x: Float[Tensor, "b h w i"], weight: Float[Tensor, "o i"]) -> Float[Tensor, "b h w o"]:
    """``x @ weight.T``."""
    if is_low(x) or x.dtype == torch.float64:
        return F.linear(x, weight)
    # a 1x1 convolution is the same product by oneDNN, on some processors twice as fast as by MKL
    return F.conv2d(x.permute(0, 3, 1, 2), weight[:, :, None, None]).permute(0, 2, 3, 1)


# --------------------------------------------------------------------- patches, there and back
class Gather(torch.autograd.Function):
    """``(B, H, W, C) -> (B, h, w, 9 C)``: the 3x3 patches at a stride; the adjoint of Scatter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int) -> Tensor:
        ctx.stride, ctx.size = stride, x.shape[1:3]
        patches = x.unfold(1, 3, stride).unfold(2, 3, stride)
        return patches.permute(0, 1, 2, 4, 5, 3).flatten(3)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return Scatter.apply(grad, ctx.stride, ctx.size), None


class Scatter(torch.autograd.Function):
    """``(B, h, w, 9 C) -> (B, H, W, C)``: each patch added where Gather would have taken it."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor, stride: int, size: torch.Size) -> Tensor:
        ctx.stride = stride
        b, h, w, _ = patches.shape
        taps = patches.unflatten(3, (9, -1)).unbind(3)
        x = patches.new_zeros(b, *size, taps[0].shape[3])
        for i in range(3):
            rows = x[:, i : i + stride * h - stride + 1 : stride]
            for j in range(3):
                rows[:, :, j : j + stride * w - stride + 1 : stride] += taps[3 * i + j]
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return Gather.apply(grad, ctx.stride), None, None


def norm_silu(
    x: Float[Tensor, "b h w c"],
    shift: Float[Tensor, "b_or_1 c"],
    weight: Float[Tensor, "b_or_1_too c"],
    bias: Float[Tensor, "b_or_one c"],
    groups: int,
    act: bool = True,
) -> Float[Tensor, "b h w c"]:
    """``silu(group_norm(x + shift) * weight + bias)``; without ``act``, no SiLU."""
    if is_cpu(x):
        return NormSiLU.apply(x, shift, weight, bias, groups, act)
    v = F.group_norm((x + shift[:, None, None]).permute(0, 3, 1, 2), groups, eps=EPS)
    u = torch.addcmul(bias[:, None, None], v.permute(0, 2, 3, 1), weight[:, None, None])
    return F.silu(u) if act else u


class NormSiLU(torch.autograd.Function):
    """``norm_silu`` with its gradient, for channels innermost on a CPU.

    PyTorch's group norm is ten times as slow there. Here all that depends on a sample and a
    channel alone is done on (B, C), so few passes over x remain.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, groups: int, act: bool
    ) -> Tensor:
        n = x.shape[1] * x.shape[2]
        ctx.pooled = lambda v: pooled(v, groups, n)
        sum_x, sum_xx = total(x), total(x * x)
        shift, weight = shift.to(sum_x.dtype), weight.to(sum_x.dtype)
        mean = ctx.pooled(sum_x + n * shift)
        square = ctx.pooled(sum_xx + shift * (2 * sum_x + n * shift))
        rstd = (square - mean * mean).clamp_(min=0).add_(EPS).rsqrt_()
        off, scale = shift - mean, rstd * weight
        u = torch.addcmul(spread(bias + off * scale, x), x.flatten(2), spread(scale, x)).view_as(x)
        ctx.save_for_backward(x, u if act else None, sum_x, off, rstd, weight)
        return F.silu(u) if act else u

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, u, sum_x, off, rstd, weight = ctx.saved_tensors
        n = x.shape[1] * x.shape[2]
        du = grad if u is None else torch.ops.aten.silu_backward(grad, u)
        # with v = (x + off) rstd normalised and u = weight v + bias
        d_bias, d_xu = total(du), total(du * x)
        d_weight = rstd * (d_xu + off * d_bias)
        # dv - mean(dv) - v mean(v dv), all times rstd, written as  scale du + slope x + level
        slope = -rstd.square() * ctx.pooled(weight * d_weight)
        level = off * slope - rstd * ctx.pooled(weight * d_bias)
        scale = rstd * weight
        dx = torch.addcmul(spread(level, x), x.flatten(2), spread(slope, x))
        dx = dx.addcmul_(du.flatten(2), spread(scale, x)).view_as(x)
        # what was shared by the samples is summed over them by autograd
        return dx, scale * d_bias + slope * sum_x + n * level, d_weight, d_bias, None, None


def total(v: Float[Tensor, "b h w c"]) -> Float[Tensor, "b c"]:
    """Sums over pixels. Those of bfloat16 are rounded once a column, then kept in float32."""
    return v.sum(1).sum(1, dtype=torch.float32) if v.dtype == torch.bfloat16 else v.sum((1, 2))


def pooled(v: Float[Tensor, "b c"], groups: int, pixels: int) -> Float[Tensor, "b c"]:
    """From sums over pixels to means over pixels and the channels of a group."""
    if groups == v.shape[1]:
        return v / pixels
    grouped = v.unflatten(1, (groups, -1))
    return grouped.mean(2, keepdim=True).div_(pixels).expand_as(grouped).flatten(1)


def spread(
    v: Float[Tensor, "b_or_1 c"], x: Float[Tensor, "b h w c"]
) -> Float[Tensor, "b_or_1 1 row"]:
    """One number a sample and channel, repeated along a row, to meet x as (B, H, W C).

    A row, not a pixel, is then the inner loop: five times as fast for widths such as 48.
    """
    return v.to(x.dtype)[:, None].expand(-1, x.shape[2], -1).flatten(1)[:, None]
