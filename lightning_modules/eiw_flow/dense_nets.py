"""The networks in DenseFlow's couplings: densely connected layers, gated, beside attention."""

import math

from lightning_modules.precision import bf16

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = [
    "CouplingNet",
    "DenseBlock",
    "NystroemAttention",
    "ResidualNet",
    "pseudo_inverse",
    "zero_conv",
]

Images = Float[Tensor, "batch _ H W"]

LANDMARKS = 4


def zero_conv(channels: int, out: int) -> nn.Conv2d:
    """A 1x1 convolution that starts at zero, so that a coupling starts as the identity."""
    conv = nn.Conv2d(channels, out, 1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


def pseudo_inverse(
    matrix: Float[Tensor, "batch n n"], iterations: int = 6
) -> Float[Tensor, "batch n n"]:
    """Moore-Penrose inverses by the third-order iteration of Nyströmformer (arXiv 2102.03902)."""
    n = matrix.shape[-1]
    eye = torch.eye(n, dtype=matrix.dtype, device=matrix.device).expand_as(matrix)
    size = matrix.abs()
    start = size.sum(1).amax(1) * size.sum(2).amax(1)
    inverse = matrix.mT / start[:, None, None]
    for _ in range(iterations):
        p = matrix @ inverse
        q = torch.baddbmm(eye, p, 7 * eye - p, beta=15, alpha=-1)
        inverse = inverse @ torch.baddbmm(eye, p, q, beta=13, alpha=-1) / 4
    return inverse


class NystroemAttention(nn.Module):
    """Self-attention through 4 landmarks, as DenseFlow's code computes it (``NystromAttention``).

    It is not the attention of a textbook. A token is a run of 3 e consecutive numbers of the
    channel-major map of queries, keys and values, which are the thirds of that run; all three
    softmaxes run over queries, not keys; landmarks are means over runs of tokens, divided by
    sqrt(H W); values are added to the result.

    Args:
        channels: of input and output.
        embed: e, numbers in a query.
    """

    def __init__(self, channels: int, embed: int) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(channels, 3 * embed, 1)
        self.out = nn.Conv2d(embed, channels, 1)

    def forward(self, x: Images) -> Images:
        """Same shape; H W must be a multiple of 4."""
        n, _, h, w = x.shape
        qkv = self.qkv(x)
        # the inverse of a nearly singular matrix has no digits left in bf16
        with bf16(x, False):
            qkv = qkv.to(torch.promote_types(qkv.dtype, torch.float32))
            q, k, v = qkv.reshape(n, h * w, -1).chunk(3, -1)
            q_mean, k_mean = (
                t.unflatten(1, (LANDMARKS, -1)).mean(2) / math.sqrt(h * w) for t in (q, k)
            )
            to_landmarks = (q @ k_mean.mT).softmax(-2)
            between = (q_mean @ k_mean.mT).softmax(-2)
            from_landmarks = (q_mean @ k.mT).softmax(-2)
            out = (to_landmarks @ pseudo_inverse(between)) @ (from_landmarks @ v) + v
        return self.out(out.reshape(n, -1, h, w))


class DenseLayer(nn.Module):
    """1x1 convolution, ReLU, 3x3 convolution, ReLU: ``growth`` channels behind those that come."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, growth, 3, padding=1),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Images) -> Images:
        return torch.cat([x, self.layers(x)], 1)


class GatedConv(nn.Module):
    """``a + b sigmoid(c)`` of the thirds of a 1x1 convolution."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 3 * out, 1)

    def forward(self, x: Images) -> Images:
        a, b, c = self.conv(x).chunk(3, 1)
        return torch.addcmul(a, b, c.sigmoid())


class DenseBlock(nn.Sequential):
    """``depth`` dense layers of ``growth`` channels each, closed by a gate to ``out`` channels."""

    def __init__(self, channels: int, out: int, depth: int, growth: int) -> None:
        layers = [DenseLayer(channels + i * growth, growth) for i in range(depth)]
        super().__init__(*layers, GatedConv(channels + depth * growth, out))


class MixedBlock(nn.Module):
    """Attention and a dense block side by side; BatchNorm, ReLU and a 1x1 convolution mix them."""

    def __init__(self, channels: int, depth: int, growth: int, embed: int) -> None:
        super().__init__()
        self.attention = NystroemAttention(channels, embed) if embed else None
        self.dense = DenseBlock(channels, channels, depth, growth)
        width = 2 * channels if embed else channels
        self.mix = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, channels, 1, bias=False),
        )

    def forward(self, x: Images) -> Images:
        h = self.dense(x)
        if self.attention is not None:
            h = torch.cat([self.attention(x), h], 1)
        return self.mix(h)


class CouplingNet(nn.Sequential):
    """The network in DenseFlow's couplings (``DNMH`` of its code; section 5.2).

    It holds a BatchNorm: what a flow with it says of an image, it says in evaluation mode.

    Args:
        channels, out: of input and output; the output starts at zero.
        mid: width of the block between the outer convolutions.
        depth, growth: number of dense layers, channels each adds.
        embed: width of the attention; 0 leaves it out.
    """

    def __init__(
        self, channels: int, out: int, mid: int, depth: int, growth: int, embed: int
    ) -> None:
        super().__init__(
            nn.Conv2d(channels, mid, 1),
            MixedBlock(mid, depth, growth, embed),
            zero_conv(mid, out),
        )


class ResidualNet(nn.Module):
    """The network in the couplings of DenseFlow's dequantiser (``DenseNet`` of its code).

    Arguments as ``CouplingNet``, without attention.
    """

    def __init__(self, channels: int, out: int, mid: int, depth: int, growth: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, mid, 1)
        self.dense = DenseBlock(mid, mid, depth, growth)
        self.last = zero_conv(mid, out)

    def forward(self, x: Images) -> Images:
        h = self.first(x)
        return self.last(h + self.dense(h))
