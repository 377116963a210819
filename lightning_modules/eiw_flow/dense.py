"""DenseFlow (arXiv 2106.04627): units of flow steps between which noise channels are added."""

from collections.abc import Callable, Sequence
from typing import Any

from lightning_modules.eiw_flow.dense_nets import CouplingNet, zero_conv
from lightning_modules.eiw_flow.layers import FlowStep, Squeeze, Steps, bounded_scale
from lightning_modules.eiw_flow.multiscale import MultiScale
from lightning_modules.eiw_flow.priors import Standard
from lightning_modules.flows import Chain, Noise, Transform
from lightning_modules.precision import bf16

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["CrossUnit", "DenseFlow", "DenseStack"]

Images = Float[Tensor, "batch C H W"]
Seen = Float[Tensor, "batch _ H W"]
PerSample = Float[Tensor, " batch"]


class CrossUnit(nn.Module):
    """Noise channels ``mu + exp(log_scale) eta`` that know what came before (cross-unit coupling).

    Section 5.2; ``cross_unit_coupling`` of DenseFlow's code. They start as noise alone.

    Args:
        channels: of what they are conditioned on.
        growth: how many there are.
        bf16: as ``AffineCoupling``.
    """

    def __init__(self, channels: int, growth: int, bf16: bool = False) -> None:
        super().__init__()
        self.growth, self.bf16 = growth, bf16
        self.density = Standard()
        self.net = nn.Sequential(
            nn.Conv2d(channels, 4 * channels, 3, padding=1),
            nn.ReLU(inplace=True),
            zero_conv(4 * channels, 2 * growth),
        )

    def forward(self, seen: Images, noise: Noise) -> tuple[Seen, PerSample]:
        """The channels, and ``-log N(eta) + sum log_scale``: their share of the bound, nats."""
        eta = noise.normal((len(seen), self.growth, *seen.shape[2:]), seen)
        mu, log_scale = self._mean_and_scale(seen)
        share = log_scale.flatten(1).sum(1) - self.density.log_prob(eta)
        return torch.addcmul(mu, eta, log_scale.exp()), share

    def inverse(self, seen: Images, added: Seen) -> Seen:
        """The noise ``eta`` that the channels were made of."""
        mu, log_scale = self._mean_and_scale(seen)
        return (added - mu) * torch.exp(-log_scale)

    def _mean_and_scale(self, seen: Images) -> tuple[Seen, Seen]:
        with bf16(seen, self.bf16 and self.training):
            out = self.net(seen)
        mu, s = out.to(seen.dtype).chunk(2, 1)
        return mu, bounded_scale(s)


class DenseStack(Transform):
    """One block of DenseFlow: units of flow steps, each with ``growth`` channels more.

    Section 5.2; ``InvertibleDenseBlock`` of its code. The noise before unit i is conditioned on
    the block's input and the outputs of units 0 to i - 2; the output of unit i - 1 is not seen.

    Args:
        channels: of the input; the output has ``(units - 1) * growth`` more.
        units, modules: number of units, of flow steps in each.
        growth: noise channels added before each unit but the first.
        net: (channels in, out) to a coupling network.
        bf16: couplings train under bf16 autocast.
    """

    def __init__(
        self,
        channels: int,
        units: int,
        modules: int,
        growth: int,
        net: Callable[[int, int], nn.Module],
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.widths = [channels + i * growth for i in range(units)]

        def step(width: int) -> FlowStep:
            half = width // 2
            return FlowStep(width, net(half, 2 * (width - half)), bf16)

        self.units = nn.ModuleList(
            Steps(step(width) for _ in range(modules)) for width in self.widths
        )
        seen = [channels + sum(self.widths[:i]) for i in range(units - 1)]
        self.cross = nn.ModuleList(CrossUnit(width, growth, bf16) for width in seen)

    def forward(self, x: Images, noise: Noise | None = None) -> tuple[Seen, PerSample]:
        noise, seen = noise or Noise(), [x]
        first, *others = self.units
        x, total = first(x)
        for cross, unit in zip(self.cross, others, strict=True):
            added, share = cross(torch.cat(seen, 1), noise)
            seen.append(x)
            x, logdet = unit(torch.cat([x, added], 1))
            total = total + share + logdet
        return x, total

    def inverse(self, y: Images) -> Seen:
        for unit, width in zip(reversed(self.units), reversed(self.widths), strict=True):
            y = unit.inverse(y[:, :width])
        return y

    def inverse_with_noise(self, y: Images) -> tuple[Seen, list[Seen]]:
        """``x`` and the noise in the order it was drawn: the inverse on the augmented space."""
        outputs, parts = [], []
        for unit, width in zip(reversed(self.units), reversed(self.widths), strict=True):
            outputs.append(y[:, :width])
            parts.append(y[:, width:])
            y = unit.inverse(outputs[-1])
        seen, noise = [y], []
        for cross, added, out in zip(self.cross, parts[:0:-1], outputs[::-1], strict=False):
            noise.append(cross.inverse(torch.cat(seen, 1), added))
            seen.append(out)
        return y, noise


class DenseFlow(MultiScale):
    """DenseFlow-74-10, the backbone of the paper's figures, or one of other widths (section 5).

    Squeeze, block; squeeze, Shuffle, Split, block; and so on. Its log-density is a lower bound's
    estimate, for the noise channels' sake, and depends on batch statistics in training mode.

    Args:
        shape: (C, H, W) of an image; H and W divisible by 2 ** scales.
        units, modules: of each scale's block.
        growth: noise channels added between units.
        mid, net_depth, net_growth: of the coupling networks.
        embed: width of their attention (authors: mid / 2); 0 leaves it out.
        bf16: couplings train under bf16 autocast.
        order, order_args, prior: as ``MultiScale``.

    Raises:
        ValueError: lists of different lengths; sides that cannot be halved once per scale; a scale
            whose number of pixels the attention's 4 landmarks do not divide.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (3, 32, 32),
        units: Sequence[int] = (6, 4, 1),
        modules: Sequence[int] = (5, 6, 20),
        growth: int = 10,
        mid: int = 48,
        net_depth: int = 7,
        net_growth: int = 64,
        embed: int = 24,
        bf16: bool = False,
        order: str = "identity",
        order_args: dict[str, Any] | None = None,
        prior: str = "standard",
    ) -> None:
        scales = len(units)
        if len(modules) != scales:
            raise ValueError(f"units for {scales} scales, modules for {len(modules)}")
        channels, *sides = shape
        if any(side % 2**scales for side in sides):
            raise ValueError(
                f"{sides[0]} x {sides[1]} pixels cannot be halved {scales} times: "
                "pad the images or take fewer scales"
            )
        h, w = (side >> scales for side in sides)
        if embed and h * w % 4:
            raise ValueError(
                f"attention wants 4, 8, 12, ... pixels, and the last scale has {h} x {w}: "
                "take fewer scales or embed = 0"
            )

        def net(channels: int, out: int) -> CouplingNet:
            return CouplingNet(channels, out, mid, net_depth, net_growth, embed)

        stacks, outputs, width = [], [], 4 * channels
        for k in range(1, scales + 1):
            block = DenseStack(width, units[k - 1], modules[k - 1], growth, net, bf16)
            stack, width = [block], block.widths[-1]
            if k == 1:
                stack.insert(0, Squeeze())
            if k < scales:  # the split keeps half of what this squeeze makes
                stack.append(Squeeze())
                outputs.append((4 * width, sides[0] >> k + 1, sides[1] >> k + 1))
                width = 2 * width
            stacks.append(Chain(stack))
        outputs.append((width, sides[0] >> scales, sides[1] >> scales))
        super().__init__(stacks, outputs, shape, order, order_args, prior)
