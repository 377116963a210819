"""W2: an autoregressive flow of 12.9 million parameters against the matrix products it is made of.

TarFlow on 3 x 32 x 32 images, patches of 4 (64 tokens) or 2 (256), width 256, four blocks of four
layers. Training and log_prob stand beside `torch.mm` of the same shapes, which no implementation
can beat; sampling beside the same model with a cache that grows by concatenation.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from reproduce.bench import Contender, Workload

__all__ = ["tokens"]

CHANNELS, SIDE, WIDTH, LAYERS, HEAD = 3, 32, 256, (4, 4, 4, 4), 64
TRAIN, SAMPLE, TURNS = 32, 16, 4
_FLOOR = "the matrix products alone"


def tokens() -> Workload:
    """Images per second."""
    kinds = {
        "train": (f"TokenFlow, train {_t(4)}", f"{_FLOOR}, train"),
        "log_prob": (f"TokenFlow, log_prob {_t(4)}", f"{_FLOOR}, log_prob"),
    }
    bf16 = f"TokenFlow, train {_t(4)}, bf16"
    draws = {patch: [f"{way}, {_t(patch)}" for way in _WAYS] for patch in (4, 2)}
    bounds = {4: (1.6, 2.5), 2: (2.3, 4.0)}
    contenders = [
        Contender(*kinds["train"], 1 / 2.0, 1 / 1.75, note="with Adam"),
        Contender(bf16, kinds["train"][0], 1.4, 1.8, note="under bf16 autocast"),
        Contender(kinds["train"][1], note="forward and backward"),
        Contender(*kinds["log_prob"], 1 / 1.9, 1 / 1.6),
        Contender(kinds["log_prob"][1]),
    ]
    for patch, (ours, growing, jacobi) in draws.items():
        contenders += [
            Contender(ours, growing, *bounds[patch], note="sampling, without guidance"),
            Contender(growing, note="nothing else changed"),
            Contender(jacobi, ours, note="an untrained flow: how many calls depends on training"),
        ]

    def round(order: list[str]) -> Iterable[tuple[str, float]]:
        flow, x = _flow(4), _images(4, TRAIN)
        names = [kinds["train"][0], bf16, kinds["train"][1]]
        calls = [_train(flow, x), _train(_flow(4), x, bf16=True), _products(True)]
        yield from _in_turns(dict(zip(names, calls, strict=True)), order, TRAIN)
        names = list(kinds["log_prob"])
        calls = [_log_prob(flow, x), _products(False)]
        yield from _in_turns(dict(zip(names, calls, strict=True)), order, TRAIN)
        for patch, ways in draws.items():
            calls = [_draw(_flow(patch), patch, way) for way in _WAYS.values()]
            turns = TURNS if patch == 4 else 1
            yield from _in_turns(dict(zip(ways, calls, strict=True)), order, SAMPLE, turns)

    title = "autoregressive flow on 32 x 32 colour images"
    return Workload("w2", title, "images/s", tuple(contenders), round)


def _t(patch: int) -> str:
    return f"T = {(SIDE // patch) ** 2}"


def _flow(patch: int) -> Any:
    """With weights that are not zero anywhere, so that tokens depend on each other."""
    from lightning_modules.simflow import TokenFlow

    import torch

    torch.manual_seed(0)
    grid = (SIDE // patch, SIDE // patch)
    flow = TokenFlow(
        CHANNELS * patch**2, grid, WIDTH, LAYERS, HEAD, conditioning="none", classes=0
    )
    with torch.no_grad():
        for block in flow.blocks:
            block.proj_out.weight.normal_(std=0.01)
    return flow


def _images(patch: int, n: int) -> Any:
    import torch

    return torch.randn(n, (SIDE // patch) ** 2, CHANNELS * patch**2)


def _train(flow: Any, x: Any, bf16: bool = False) -> Callable[[], Any]:
    import torch

    optimizer = torch.optim.AdamW(flow.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = -flow.log_prob(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _log_prob(flow: Any, x: Any) -> Callable[[], Any]:
    import torch

    return torch.no_grad()(lambda: flow.log_prob(x))


def _products(backward: bool) -> Callable[[], Any]:
    """The products of all linear layers; backward, those for the weights and the inputs too."""
    import torch

    rows = TRAIN * (SIDE // 4) ** 2
    ends = [(CHANNELS * 16, WIDTH), (WIDTH, 2 * CHANNELS * 16)]
    inner = [(WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)]
    shapes = [s for depth in LAYERS for s in [*ends, *inner * depth]]
    made = [(torch.randn(rows, i), torch.randn(i, o), torch.randn(rows, o)) for i, o in shapes]

    def step() -> None:
        for x, weight, gradient in made:
            torch.mm(x, weight)
            if backward:
                torch.mm(gradient, weight.T)
                torch.mm(x.T, gradient)

    return torch.no_grad()(step)


# --------------------------------------------------------------------------------- sampling
def _draw(flow: Any, patch: int, way: tuple[bool, dict[str, Any]]) -> Callable[[], Any]:
    from lightning_modules.simflow.sampling import Sampler, inverse

    grows, how = way
    z, sampler = _images(patch, SAMPLE), Sampler(**how)

    def draw() -> None:
        with _growing() if grows else _as_it_is():
            inverse(flow, z, None, sampler)

    return draw


_WAYS: dict[str, tuple[bool, dict[str, Any]]] = {
    "cached": (False, {}),
    "cache grown by concatenation": (True, {}),
    "Gauss-Seidel-Jacobi": (False, {"kind": "gs_jacobi", "windows": 8, "tolerance": 1e-4}),
}


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


@contextmanager
def _growing() -> Iterator[None]:
    """A list that each token's keys and values are appended to, and put together, as TarFlow's."""
    from lightning_modules.simflow import sampling
    from lightning_modules.simflow.transformer import Cache

    import torch

    class Growing(Cache):
        @classmethod
        def empty(cls, batch: int, heads: int, length: int, head_dim: int, like: Any) -> Any:
            return super().empty(batch, heads, 0, head_dim, like)

        def extend(self, k: Any, v: Any, start: int) -> tuple[Any, Any]:
            if not start:
                self.parts: tuple[list[Any], list[Any]] = [], []
            for parts, new in zip(self.parts, (k, v), strict=True):
                parts.append(new)
            return torch.cat(self.parts[0], 2), torch.cat(self.parts[1], 2)

    sampling.Cache = Growing
    try:
        yield
    finally:
        sampling.Cache = Cache


def _in_turns(
    calls: dict[str, Callable[[], Any]], order: list[str], images: int, turns: int = TURNS
) -> Iterable[tuple[str, float]]:
    """Images per second of each, the median of turns; a first call of each is not timed."""
    spent: dict[str, list[float]] = {name: [] for name in sorted(calls, key=order.index)}
    for turn in range(turns + 1):
        for name, times in spent.items():
            begun = time.perf_counter()
            calls[name]()
            if turn:
                times.append(time.perf_counter() - begun)
    return [(name, images / statistics.median(times)) for name, times in spent.items()]
