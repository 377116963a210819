"""The multi-scale flow: a stack of steps, Shuffle, Split, and so on down to the last scale."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_modules.eiw_flow.layers import ConvNet, FlowStep, Squeeze, Steps
from lightning_modules.eiw_flow.priors import PRIORS, Diagonal
from lightning_modules.eiw_flow.shuffle import ChannelOrder
from lightning_modules.flows import Chain, Noise, Transform

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Encoding", "Glow", "MultiScale", "Scale"]

Images = Float[Tensor, "batch C H W"]


@dataclass
class Encoding:
    """What a multi-scale flow makes of a batch.

    Attributes:
        latents: z_1, ..., z_{L-1}, x_L, each (batch, C, H, W).
        log_prob: (batch,), nats, of the continuous input; with noise channels, a lower bound's
            one-sample estimate.
        kl: the orders' terms, one per split, nats.
    """

    latents: list[Tensor]
    log_prob: Tensor
    kl: list[Tensor]


@dataclass
class Scale:
    """The features at one split: before and after Shuffle, kept and factored out."""

    u: Tensor
    v: Tensor
    x: Tensor
    z: Tensor


class MultiScale(nn.Module):
    """``log q(x) = sum_k log p(z_k) + log p(x_L) + sum log|det|`` (section 3; any channel order).

    Args:
        stacks: one Transform per scale; its output is split, the last one's is not.
        outputs: (C, H, W) of each stack's output.
        shape: (C, H, W) of the input.
        order: mode of the ChannelOrder before each split, and ``order_args`` its arguments.
        prior: of what is factored out, a name of ``PRIORS``; the last scale's is ``Diagonal``.

    Raises:
        ValueError: an unknown prior or order.
    """

    def __init__(
        self,
        stacks: Iterable[Transform],
        outputs: Sequence[tuple[int, int, int]],
        shape: tuple[int, int, int],
        order: str = "identity",
        order_args: dict[str, Any] | None = None,
        prior: str = "standard",
    ) -> None:
        super().__init__()
        if prior not in PRIORS:
            raise ValueError(f"unknown prior {prior!r}: choose one of {', '.join(PRIORS)}")
        split, last = [c for c, _, _ in outputs[:-1]], outputs[-1][0]
        self.shape, self.outputs = tuple(shape), tuple(outputs)
        self.stacks = nn.ModuleList(stacks)
        # priors and orders are built after the stacks: arms that differ in them share a backbone
        self.priors = nn.ModuleList(PRIORS[prior](c - c // 2) for c in split)
        self.last = Diagonal(last)
        self.orders = nn.ModuleList(ChannelOrder(c, order, **order_args or {}) for c in split)

    @property
    def dims(self) -> int:
        """Dimensions of an input, D = C H W."""
        return int(torch.Size(self.shape).numel())

    def parts(self) -> dict[str, int]:
        """Numbers of parameters by what they are for."""
        parts = {
            "backbone": [self.stacks], "priors": [self.priors, self.last], "Shuffle": [self.orders]
        }  # fmt: skip
        found = {k: sum(p.numel() for m in v for p in m.parameters()) for k, v in parts.items()}
        return {part: n for part, n in found.items() if n}

    def forward(
        self, x: Images, noise: Noise | None = None, trace: list[Scale] | None = None
    ) -> Encoding:
        """Latents and log-density of ``x``; the features at each split are added to ``trace``."""
        latents, kl, total = [], [], x.new_zeros(len(x))
        x = x.contiguous(memory_format=torch.channels_last)
        for stack, order, prior in zip(self.stacks, self.orders, self.priors, strict=False):
            u, logdet = stack(x, noise)
            v = order(u)
            x, z = v.split([v.shape[1] // 2, v.shape[1] - v.shape[1] // 2], 1)
            total = total + logdet + prior.log_prob(z, x)
            latents.append(z)
            kl.append(order.kl(u, v))
            if trace is not None:
                trace.append(Scale(u, v, x, z))
        x, logdet = self.stacks[-1](x, noise)
        return Encoding([*latents, x], total + logdet + self.last.log_prob(x), kl)

    def inverse(self, latents: Sequence[Tensor]) -> Images:
        """The input with these latents; noise channels are dropped."""
        return self._decode(latents[-1], lambda k, x: latents[k])

    def sample(
        self, n: int, noise: Noise, temperature: float = 1.0, last: float | None = None
    ) -> Images:
        """``n`` draws; ``last`` is the temperature of the last scale, if it is another one.

        The authors' code changes the last scale's alone.
        """
        like = self.last.mean.new_empty(()).expand(n, *self.latent_shapes[-1])
        x = self.last.sample(like, noise, temperature if last is None else last)
        return self.complete(x, noise, temperature)

    def complete(self, last: Tensor, noise: Noise, temperature: float = 1.0) -> Images:
        """Inputs with these latents of the last scale; what the splits factored out is drawn."""

        def draw(k: int, x: Tensor) -> Tensor:
            like = last.new_empty(()).expand(len(last), *self.latent_shapes[k])
            return self.priors[k].sample(like, noise, temperature, x)

        return self._decode(last, draw)

    def _decode(self, x: Tensor, factored: Any) -> Images:
        x = self.stacks[-1].inverse(x.contiguous(memory_format=torch.channels_last))
        for k in reversed(range(len(self.orders))):
            v = torch.cat([x, factored(k, x).contiguous(memory_format=torch.channels_last)], 1)
            x = self.stacks[k].inverse(self.orders[k].inverse(v))
        return x

    @property
    def latent_shapes(self) -> list[tuple[int, int, int]]:
        """(C, H, W) of each latent."""
        *split, last = self.outputs
        return [*((c - c // 2, h, w) for c, h, w in split), last]


class Glow(MultiScale):
    """The exact backbone: squeeze, K steps; squeeze, Shuffle, Split, K steps; and so on.

    Args:
        shape: (C, H, W) of an image; H and W divisible by 2 ** scales.
        scales: L; there are L - 1 splits.
        steps: K, of ActNorm, 1x1 convolution and affine coupling, per scale.
        hidden: width of the coupling networks.
        bf16: coupling networks train under bf16 autocast.
        order, order_args, prior: as ``MultiScale``.

    Raises:
        ValueError: a side that cannot be halved ``scales`` times.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (3, 32, 32),
        scales: int = 3,
        steps: int = 8,
        hidden: int = 128,
        bf16: bool = False,
        order: str = "identity",
        order_args: dict[str, Any] | None = None,
        prior: str = "standard",
    ) -> None:
        channels, *sides = shape
        if any(side % 2**scales for side in sides):
            raise ValueError(
                f"{sides[0]} x {sides[1]} pixels cannot be halved {scales} times: "
                "pad the images or take fewer scales"
            )

        def step(width: int) -> FlowStep:
            half = width // 2
            return FlowStep(width, ConvNet(half, hidden, 2 * (width - half)), bf16)

        stacks, outputs, width = [], [], 4 * channels
        for k in range(1, scales + 1):
            stack = [Squeeze()] if k == 1 else []
            stack.append(Steps(step(width) for _ in range(steps)))
            if k < scales:  # the split keeps half of what this squeeze makes
                stack.append(Squeeze())
                outputs.append((4 * width, sides[0] >> k + 1, sides[1] >> k + 1))
                width = 2 * width
            stacks.append(Chain(stack))
        outputs.append((width, sides[0] >> scales, sides[1] >> scales))
        super().__init__(stacks, outputs, shape, order, order_args, prior)
        self.stacks.to(memory_format=torch.channels_last)
