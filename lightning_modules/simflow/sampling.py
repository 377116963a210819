"""The inverse of an autoregressive flow, four ways: one result, different numbers of calls.

A block's inverse is ``x_t = z_t sigma_t + m_t``, where ``(sigma_t, m_t)`` reads ``x_{<t}``. It is
found window by window; inside a window all tokens are guessed and corrected together. A window of
n tokens is exact after n corrections and usually much earlier (section 13). Windows of one token
are the sequential inverse, one window is Jacobi's method, and what lies between is Gauss-Seidel's
over windows (arXiv 2505.12849).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from lightning_modules.simflow.block import Block
from lightning_modules.simflow.flow import TokenFlow
from lightning_modules.simflow.guidance import RULES, Guidance
from lightning_modules.simflow.transformer import Cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["SAMPLERS", "Drawn", "Sampler", "denoise", "inverse", "sample"]

Tokens = Float[Tensor, "batch T C"]
Labels = Int[Tensor, " batch"] | Float[Tensor, "batch P E"] | None

SAMPLERS = ("naive", "cached", "jacobi", "gs_jacobi")
_FAR = 1e4  # where guesses that overflow are kept: they are wrong, but must stay numbers


@dataclass(frozen=True)
class Sampler:
    """How each block is inverted.

    Args:
        kind: ``naive``, the whole sequence anew for each token, to compare with; ``cached``, token
            by token with the keys and values of those before; ``jacobi``; ``gs_jacobi``.
        windows: of ``gs_jacobi``.
        tolerance: corrections of a window end when no token moved by more than this times the
            greatest of them; 0 corrects as often as is exact.
        limit: most corrections of a window, if fewer than are exact.
        guess: what a window starts from: ``z``, or ``zero``, but for the first token of all.
        blocks: which blocks are solved in windows, by their number; the others, and without this
            none of them, are ``cached``. (The notation Stack of the method's authors.)

    Raises:
        ValueError: an unknown kind or guess, or fewer than one window.
    """

    kind: str = "cached"
    windows: int = 1
    tolerance: float = 1e-6
    limit: int | None = None
    guess: str = "z"
    blocks: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.kind not in SAMPLERS:
            raise ValueError(f"unknown sampler {self.kind!r}: choose one of {', '.join(SAMPLERS)}")
        if self.guess not in ("z", "zero"):
            raise ValueError(f"unknown guess {self.guess!r}: choose z or zero")
        if self.windows < 1:
            raise ValueError("a sequence is solved in at least one window")

    def edges(self, tokens: int, block: int) -> list[int]:
        """Where windows begin, and the end of the last one."""
        solved = self.blocks is None or block in self.blocks
        if self.kind in ("naive", "cached") or not solved:
            return list(range(tokens + 1))
        windows = 1 if self.kind == "jacobi" else min(self.windows, tokens)
        return [round(i * tokens / windows) for i in range(windows + 1)]


@dataclass
class Drawn:
    """Samples, and what they took.

    Attributes:
        x: tokens in the order of the image.
        calls: network calls of each block.
        evaluated: tokens that were passed through each block's network, per sample.
    """

    x: Tokens
    calls: list[int] = field(default_factory=list)
    evaluated: list[int] = field(default_factory=list)


class _Reader:
    """A block under its condition and guidance, with caches: windows in, scales and means out."""

    def __init__(
        self,
        block: Block,
        like: Tokens,
        y: Labels,
        guidance: Guidance | None,
        memory: dict[Any, list[Cache]] | None,
    ) -> None:
        self.block, self.batch = block, len(like)
        self.guided = guidance if guidance is not None and guidance.weight else None
        self.calls = self.evaluated = 0
        rows = self.batch
        if self.guided:
            rows, y = 2 * rows, _with_dropped(y, rows, like.device)
            self.weights = self.guided.weights(like.shape[1]).to(like)
        self.condition = block.condition(y, rows)
        if self.guided and self.guided.temperature != 1:
            sharpness = like.new_ones(rows, 1, 1, 1)
            sharpness[self.batch :] /= self.guided.temperature
            self.condition.sharpness = sharpness
        self.caches = None
        if memory is not None:  # what an earlier block has used: first touched, memory is slow
            kind = block.proj_in.weight.new_empty(0).to(_autocast_type(like))
            length = self.condition.ahead + like.shape[1]
            shape = (rows, block.layers[0].heads, length, block.shape.head_dim)
            held = memory.setdefault((shape, kind.dtype), [])
            held += [Cache.empty(*shape, kind) for _ in block.layers[len(held) :]]
            self.caches = held[: len(block.layers)]

    def __call__(self, x: Tokens, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """``(log sigma, m)`` of the tokens ``begin`` to ``end``: (batch, end - begin, C)."""
        first = begin if self.caches else 0  # without caches all is read again
        before = x[:, max(first - 1, 0) : end - 1]
        self.calls += bool(before.shape[1]) or self.block.first is not None
        self.evaluated += before.shape[1] + (self.block.first is not None and not first)
        if self.guided:
            before = before.repeat(2, 1, 1)
        log_scale, m = self.block.window(before, self.condition, first, self.caches)
        log_scale, m = log_scale[:, begin - first :], m[:, begin - first :]
        if self.guided:
            (c, u), (mc, mu) = log_scale.split(self.batch), m.split(self.batch)
            log_scale, m = RULES[self.guided.rule](c, mc, u, mu, self.weights[begin:end])
        return log_scale, m


@torch.no_grad()
def inverse(
    flow: TokenFlow,
    z: Tokens,
    y: Labels = None,
    sampler: Sampler | None = None,
    guidance: Guidance | None = None,
) -> Drawn:
    """The tokens with latents ``z``, exact up to the sampler's tolerance.

    With guidance it is no longer the inverse of the model's forward pass, but of the guided one.
    """
    sampler = sampler or Sampler()
    deep = len(flow.blocks) - 1
    x, drawn = z, Drawn(z)
    memory: dict[Any, list[Cache]] | None = None if sampler.kind == "naive" else {}
    for k in reversed(range(len(flow.blocks))):
        block: Block = flow.blocks[k]
        applies = guidance is not None and (guidance.blocks == "all" or k == deep)
        reader = _Reader(block, x, y, guidance if applies else None, memory)
        edges = sampler.edges(x.shape[1], k)
        x = block.ordered(_solve(reader, block.ordered(x), edges, sampler))
        drawn.calls.insert(0, reader.calls)
        drawn.evaluated.insert(0, reader.evaluated)
    drawn.x = x
    return drawn


def _solve(reader: Callable[..., Any], z: Tokens, edges: Sequence[int], how: Sampler) -> Tokens:
    """``x`` with ``x = z sigma(x) + m(x)``, window by window."""
    x = z.clone() if how.guess == "z" else torch.zeros_like(z)
    x[:, 0] = z[:, 0]
    for begin, end in pairwise(edges):
        most = end - begin if how.limit is None else min(end - begin, how.limit)
        for _ in range(most):
            log_scale, m = reader(x, begin, end)
            new = torch.addcmul(m, z[:, begin:end], log_scale.exp())
            if end - begin == 1:  # exact at once
                x[:, begin:end] = new
                break
            new = new.nan_to_num(0.0).clamp_(-_FAR, _FAR)
            moved = float((new - x[:, begin:end]).abs().max())
            x[:, begin:end] = new
            if moved <= how.tolerance * float(new.abs().max()):
                break
    return x


def _with_dropped(y: Labels, rows: int, device: torch.device) -> Tensor:
    """The conditions, and as many dropped ones."""
    if y is not None and y.is_floating_point():
        return torch.cat([y, torch.zeros_like(y)])  # an empty prompt
    dropped = torch.full((rows,), -1, device=device)
    return torch.cat([dropped if y is None else y, dropped])


def _autocast_type(like: Tensor) -> torch.dtype:
    kind = like.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype


# ---------------------------------------------------------------------------------- samples
@torch.no_grad()
def sample(
    flow: TokenFlow,
    noise: Callable[[tuple[int, ...]], Tensor],
    n: int,
    y: Labels = None,
    sampler: Sampler | None = None,
    guidance: Guidance | None = None,
    temperature: float = 1.0,
) -> Drawn:
    """``n`` draws from the model.

    Args:
        noise: standard normal numbers of a shape.
        temperature: factor on the prior's standard deviation.
    """
    z = noise((n, flow.shape.tokens, flow.shape.channels))
    return inverse(flow, temperature * z * flow.var.sqrt(), y, sampler, guidance)


def denoise(flow: TokenFlow, x: Tokens, std: float, y: Labels = None) -> Tokens:
    """Tweedie's mean of the clean tokens, ``x + std^2 grad log p(x)``; ``p`` is of noisy ones."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(flow.log_prob(x, y).sum(), x)
    return x.detach() + std**2 * gradient
