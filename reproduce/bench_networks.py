"""W3: score networks. The Monte Carlo estimate against the forward passes it is made of, the
attention U-Net against diffusers' of equal size, the MNIST U-Net under a Trainer against a loop.

All on one thread in float32, in turns within one process.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any

from reproduce.bench import Contender, Workload
from reproduce.bench_steps import race
from reproduce.cells import Cell, expand, override
from reproduce.errors import RequestError
from reproduce.papers import targets

__all__ = ["networks"]

BATCH, SIDE, WIDTH = 32, 28, 48
ESTIMATE, FORWARD = "Monte Carlo estimate of S_NN", "its bare forward passes"
TRAINER, LOOP = "MNIST U-Net, Trainer", "MNIST U-Net, bare loop"
OURS, THEIRS = "AttentionUNet", "diffusers UNet2DModel"
_POINTS, _STRATA = 100, 8  # as many network calls of as many rows on both sides
_UPDATES, _TURN, _WARM_UP = 240, 10, 40


def networks() -> Workload:
    """Images per second: evaluated, trained on, or passed forward.

    Raises:
        RequestError: diffusers is not installed; (when it runs) MNIST is not there.
    """
    import torch

    try:
        import diffusers  # noqa: F401
    except ImportError:
        raise RequestError(
            "w3 compares with diffusers: .venv/bin/python -m pip install -e '.[bench]'"
        ) from None
    pairs = {
        (ESTIMATE, FORWARD): _estimate,
        (f"{OURS}, train", f"{THEIRS}, train"): _train,
        (f"{OURS}, forward", f"{THEIRS}, forward"): _forward,
        (TRAINER, LOOP): _trainer,
    }

    def round(order: list[str]) -> Iterable[tuple[str, float]]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for pair in sorted(pairs, key=lambda pair: order.index(pair[0])):
                yield from zip(pair, pairs[pair](), strict=True)
        finally:
            torch.set_num_threads(threads)

    contenders = (
        Contender(ESTIMATE, FORWARD, 1 / 1.05, 1.0, note="one network evaluation per draw"),
        Contender(FORWARD, note="the MNIST U-Net, in as many calls"),
        *(
            row
            for what in ("train", "forward")
            for row in (
                Contender(f"{OURS}, {what}", f"{THEIRS}, {what}", 1.0, 1.3, note=_SAME),
                Contender(f"{THEIRS}, {what}", note=_SAME),
            )
        ),
        Contender(TRAINER, LOOP, 0.95, 1.0, note="with the callbacks of a cell"),
        Contender(LOOP, note="same model, batches, noise, optimizer"),
    )
    title = "score U-Nets on one thread, 1 x 28 x 28"
    return Workload("w3", title, "images/s", contenders, round, _require_mnist)


_SAME = "parameters and FLOPs equal within 5 %, batch 32, fused Adam"


# ------------------------------------------------------------------------- the two U-Nets
def _ours() -> Any:
    from lightning_modules.neural_entropy import AttentionUNet

    return AttentionUNet(SIDE, 1, WIDTH, attention_at=(14, 7), dropout=0.0, classes=0)


def _theirs() -> Any:
    import torch
    from diffusers import UNet2DModel

    class Theirs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = UNet2DModel(
                sample_size=SIDE,
                in_channels=1,
                out_channels=1,
                layers_per_block=2,
                block_out_channels=(WIDTH,) * 3,
                down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
                attention_head_dim=WIDTH,
                norm_num_groups=WIDTH // 2,
                resnet_time_scale_shift="scale_shift",
            )

        def forward(self, y, s):
            return self.net(y, 1000 * s).sample

    return Theirs()


def _train() -> Iterable[float]:
    import torch

    x, s = torch.rand(BATCH, 1, SIDE, SIDE), torch.rand(BATCH)

    def stepper(net: Any) -> Callable[[], Any]:
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)

        def step() -> None:
            (net(x, s) - x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    return (BATCH * rate for rate in _in_turns(stepper(_ours()), stepper(_theirs()), 4))


def _forward() -> Iterable[float]:
    import torch

    x, s = torch.rand(BATCH, 1, SIDE, SIDE), torch.rand(BATCH)
    ours, theirs = _ours(), _theirs()
    with torch.no_grad():
        return [BATCH * r for r in _in_turns(lambda: ours(x, s), lambda: theirs(x, s), 8)]


# ------------------------------------------------------------------- the estimate of S_NN
def _estimate() -> Iterable[float]:
    from lightning_modules.neural_entropy import PROCESSES, ConvUNet
    from lightning_modules.neural_entropy.estimators import entropy_in_strata

    import torch

    net, x, noise = ConvUNet(), torch.rand(_POINTS, 1, SIDE, SIDE), torch.Generator()
    s, vp = torch.rand(_POINTS), PROCESSES["vp"]

    def passes() -> None:
        for _ in range(_STRATA):
            net(x, s)

    with torch.no_grad():
        rates = _in_turns(lambda: entropy_in_strata(vp, net, x, _STRATA, noise), passes, 6)
    return (_POINTS * _STRATA * rate for rate in rates)


# --------------------------------------------------------------------------- the training
def _trainer() -> Iterable[float]:
    return (BATCH * rate for rate in race(_cell(), _UPDATES, _TURN, _WARM_UP))


def _cell() -> Cell:
    """The first cell of ne-samples at tier small, for a few updates."""
    cell = expand(targets()["ne-samples"], "small", 1)[0]
    changes = {
        "trainer.max_steps": _UPDATES,
        "marks.updates": [_UPDATES],
        "checkpoint.every": _UPDATES,
        "data.init_args.n_per_class": 100,
    }
    return Cell(cell.paper, cell.tier, cell.seed, cell.axes, override(dict(cell.config), changes))


def _require_mnist() -> None:
    from datamodules.sources import DataError, load

    try:
        load("mnist")
    except DataError as error:
        raise RequestError(f"w3 trains on MNIST: {error}") from None


def _in_turns(one: Callable[[], Any], other: Callable[[], Any], times: int) -> tuple[float, float]:
    """Calls per second of each; after a first call of each they alternate."""
    spent = [0.0, 0.0]
    for turn in range(times + 1):
        for k, call in enumerate((one, other)):
            begun = time.perf_counter()
            call()
            if turn:
                spent[k] += time.perf_counter() - begun
    return times / spent[0], times / spent[1]
