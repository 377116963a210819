"""The continuous backbone: multi-scale FFJORD, whose steps are ordinary differential equations."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from lightning_modules.eiw_flow.layers import Squeeze
from lightning_modules.eiw_flow.multiscale import MultiScale
from lightning_modules.flows import Chain, Noise, Transform

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CNF", "ContinuousFlow", "Field", "Integrator", "Logit"]

Images = Float[Tensor, "batch C H W"]
PerSample = Float[Tensor, " batch"]
Tangents = Float[Tensor, "n _ C H W"]  # n for each sample, or the same n for all

ROWS = 8192  # (direction, sample) pairs that pass through a field at a time


class Field(nn.Module):
    """``f(t, x)``: 3x3 convolutions with time as a further channel, softplus between (FFJORD).

    It starts at zero, so the flow along it starts as the identity.

    Args:
        channels: C.
        hidden: widths of the layers between; none makes a field that is linear in x.
    """

    def __init__(self, channels: int, hidden: Sequence[int] = (64, 64, 64)) -> None:
        super().__init__()
        widths = [channels, *hidden, channels]
        self.convs = nn.ModuleList(nn.Conv2d(i + 1, o, 3, padding=1) for i, o in pairwise(widths))
        nn.init.zeros_(self.convs[-1].weight)
        nn.init.zeros_(self.convs[-1].bias)

    @property
    def reach(self) -> int:
        """Pixels further apart than this do not see each other."""
        return len(self.convs)

    def forward(
        self, t: Float[Tensor, ""], x: Images, v: Tangents | None = None
    ) -> tuple[Images, Tangents | None]:
        """``f(t, x)``, and the products of its Jacobian with the directions ``v``.

        The products are written out, layer by layer: forward mode needs no second graph to
        train through, and works where autograd is switched off.
        """
        for layer, conv in enumerate(self.convs):
            if layer:
                v = None if v is None else v * x.sigmoid()
                x = F.softplus(x)
            of_time, of_x = conv.weight[:, :1], conv.weight[:, 1:]
            # the same for all samples, and a channel less for the rest
            time = F.conv2d(t.expand(1, 1, *x.shape[2:]), of_time, conv.bias, padding=1)
            x = F.conv2d(x, of_x, padding=1) + time
            if v is not None:
                each = F.conv2d(v.flatten(0, 1), of_x, padding=1)
                v = each.unflatten(0, v.shape[:2])
        return x, v


@dataclass(frozen=True)
class Integrator:
    """How an equation is solved, and the trace of the Jacobian along it computed.

    Attributes:
        method: ``rk4``, of fourth order with fixed steps (the 3/8 rule), or ``dopri5``, of fifth
            order with steps chosen for the whole batch by ``atol`` and ``rtol``.
        steps: of ``rk4``.
        trace: ``hutchinson``, unbiased, by one draw of signs per sample and call; or ``exact``.

    Raises:
        ValueError: an unknown method or trace, no step, a tolerance that is not positive.
    """

    method: str = "rk4"
    steps: int = 8
    atol: float = 1e-5
    rtol: float = 1e-5
    trace: str = "hutchinson"

    def __post_init__(self) -> None:
        if self.method not in ("rk4", "dopri5") or self.trace not in ("hutchinson", "exact"):
            raise ValueError(
                f"an equation is solved by rk4 or dopri5, not {self.method!r}, and its trace is "
                f"hutchinson or exact, not {self.trace!r}"
            )
        if self.steps < 1 or min(self.atol, self.rtol) <= 0:
            raise ValueError("an equation is solved in at least one step, to tolerances above 0")

    def solve(self, slope: Callable[..., Any], state: Any, start: float, end: float) -> Any:
        """The state, a tensor or a tuple of them, at time ``end``."""
        from torchdiffeq import odeint  # brings scipy.integrate along

        like = state if isinstance(state, Tensor) else state[0]
        ends = like.new_tensor([start, end])
        if self.method == "rk4":
            grid = torch.linspace(start, end, self.steps + 1, dtype=like.dtype, device=like.device)
            options = {"grid_constructor": lambda *_: grid}
        else:
            options = {"step_t": ends[1:]}  # else it steps past the end and interpolates, roughly
        found = odeint(
            slope, state, ends, method=self.method, atol=self.atol, rtol=self.rtol, options=options
        )
        return found[-1] if isinstance(found, Tensor) else tuple(each[-1] for each in found)


class CNF(Transform):
    """``y = x(1)`` where ``x(0) = x`` and ``dx/dt = f(t, x)``; ``log|det|`` is the integral of
    the trace of ``df/dx`` (FFJORD).

    Args:
        field: f, as ``Field``.
        integrator: in training.
        evaluation: out of training; without, the same with the exact trace. An importance-weighted
            bound needs that: the exponential of an unbiased estimate is biased upwards.
    """

    def __init__(
        self,
        field: nn.Module,
        integrator: Integrator | None = None,
        evaluation: Integrator | None = None,
    ) -> None:
        super().__init__()
        self.field = field
        self.train_by = integrator or Integrator()
        self.evaluate_by = evaluation or replace(self.train_by, trace="exact")

    @property
    def integrator(self) -> Integrator:
        """The one in use."""
        return self.train_by if self.training else self.evaluate_by

    def forward(self, x: Images, noise: Noise | None = None) -> tuple[Images, PerSample]:
        if self.integrator.trace == "exact":
            directions = self._basis(x)
        else:  # one draw, held fixed: the estimate's equation is then as smooth as the field
            directions = (noise or Noise()).rademacher(x.shape, x)[None]
        parts = directions.split(max(1, ROWS // len(x)))

        def slope(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            trace = x.new_zeros(len(x))
            for v in parts:
                dx, product = self.field(t, state[0], v)
                trace = trace + (v * product).sum((0, 2, 3, 4))
            return dx, trace

        return self.integrator.solve(slope, (x, x.new_zeros(len(x))), 0.0, 1.0)

    def inverse(self, y: Images) -> Images:
        return self.integrator.solve(lambda t, x: self.field(t, x)[0], y, 1.0, 0.0)

    def _basis(self, x: Images) -> Float[Tensor, "n 1 C H W"]:
        """Directions along which the products of the Jacobian, added up, give its trace.

        One unit vector per dimension would do. Pixels that do not see each other share one, so
        there are C (reach + 1)^2 of them at most, whatever the size of the image.
        """
        c, h, w = x.shape[1:]
        tile = min(self.field.reach + 1, max(h, w))
        unit = torch.eye(c * tile**2, dtype=x.dtype, device=x.device)
        tiled = unit.reshape(-1, 1, c, tile, tile).repeat(1, 1, 1, -(-h // tile), -(-w // tile))
        return tiled[..., :h, :w]


class Logit(Transform):
    """``logit(alpha + (1 - 2 alpha) (x + 1/2))``: from [-1/2, 1/2], where images are, to the line.

    Args:
        alpha: keeps what is on the edge finite (FFJORD: 1e-6).

    Raises:
        ValueError: alpha not between 0 and 1/2.
    """

    def __init__(self, alpha: float = 1e-6) -> None:
        super().__init__()
        if not 0 < alpha < 0.5:
            raise ValueError(f"alpha is between 0 and 1/2, not {alpha}")
        self.alpha = alpha

    def forward(self, x: Images, noise: Noise | None = None) -> tuple[Images, PerSample]:
        slope = 1 - 2 * self.alpha
        # both from x: one minus the other would lose the digits of the smaller
        low = (self.alpha + slope * (0.5 + x)).log()
        high = (self.alpha + slope * (0.5 - x)).log()
        logdet = math.log(slope) - low - high
        return low - high, logdet.flatten(1).sum(1)

    def inverse(self, y: Images) -> Images:
        return (y.sigmoid() - self.alpha) / (1 - 2 * self.alpha) - 0.5


class ContinuousFlow(MultiScale):
    """The continuous backbone: CNFs, squeeze, CNFs, Shuffle, Split; and so on; CNFs at the end.

    Args:
        shape: (C, H, W) of an image; H and W divisible by 2 ** (scales - 1).
        scales: L; there are L - 1 splits (FFJORD: 4 of CIFAR-10, 3 of MNIST).
        hidden: widths of the fields' layers.
        n_blocks: CNFs before and after each squeeze.
        alpha: of the logit that the images pass first; 0 leaves it out.
        integrator, evaluation: as ``CNF``.
        order, order_args, prior: as ``MultiScale``.

    Raises:
        ValueError: a side that cannot be halved ``scales - 1`` times.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (3, 32, 32),
        scales: int = 4,
        hidden: Sequence[int] = (64, 64, 64),
        n_blocks: int = 2,
        alpha: float = 1e-6,
        integrator: Integrator | None = None,
        evaluation: Integrator | None = None,
        order: str = "identity",
        order_args: dict[str, Any] | None = None,
        prior: str = "standard",
    ) -> None:
        channels, *sides = shape
        if any(side % 2 ** (scales - 1) for side in sides):
            raise ValueError(
                f"{sides[0]} x {sides[1]} pixels cannot be halved {scales - 1} times: "
                "pad the images or take fewer scales"
            )

        def cnfs(width: int) -> list[CNF]:
            return [CNF(Field(width, hidden), integrator, evaluation) for _ in range(n_blocks)]

        stacks, outputs, width = [], [], channels
        for k in range(1, scales + 1):
            stack = [Logit(alpha)] if k == 1 and alpha else []
            stack += cnfs(width)
            if k < scales:  # the split keeps half of what this squeeze makes
                stack += [Squeeze(), *cnfs(4 * width)]
                outputs.append((4 * width, sides[0] >> k, sides[1] >> k))
                width = 2 * width
            stacks.append(Chain(stack))
        outputs.append((width, sides[0] >> scales - 1, sides[1] >> scales - 1))
        super().__init__(stacks, outputs, shape, order, order_args, prior)
