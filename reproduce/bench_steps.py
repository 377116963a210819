"""W7: steps per second of a cell's training, against a bare PyTorch loop that does the same work.

Both run in one process on one thread and take turns every few updates, so that whatever slows the
machine down slows both. They must end with equal weights, which proves that the work was the same.
"""

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from reproduce.bench import Contender, Workload
from reproduce.cells import Cell, expand, override
from reproduce.papers import targets

__all__ = ["race", "steps"]

TARGETS = ("ne-epochs",)  # the smallest model of each paper: the first cell at tier smoke
UPDATES, TURN, WARM_UP = 1500, 25, 50


def steps() -> Workload:
    """Steps per second; loading, the first updates and the other contender's turns left out."""
    ours, bare = "{}, Trainer".format, "{}, bare loop".format

    def round(order: list[str]) -> Iterable[tuple[str, float]]:
        for target in sorted(TARGETS, key=lambda target: order.index(ours(target))):
            rates = race(smallest(target, UPDATES), UPDATES, TURN, WARM_UP)
            yield from zip((ours(target), bare(target)), rates, strict=True)

    contenders = []
    for target in TARGETS:
        note = "with the callbacks, marks and checkpoints of a cell"
        contenders.append(Contender(ours(target), bare(target), 0.85, 0.95, note=note))
        contenders.append(Contender(bare(target), note="same model, batches, noise, optimizer"))
    return Workload("w7", "training on one thread", "steps/s", tuple(contenders), round)


def smallest(target: str, updates: int) -> Cell:
    """The target's first cell at tier smoke, trained for ``updates``.

    As many marks and checkpoints lie on its way as on the way of a whole cell.
    """
    cell = expand(targets()[target], "smoke", 1)[0]
    longer = updates / cell.config["trainer"]["max_steps"]

    def scaled(update: int) -> int:
        return max(1, round(longer * update))

    changes = {
        "trainer.max_steps": updates,
        "marks.updates": [scaled(update) for update in cell.config["marks"]["updates"]],
        "checkpoint.every": scaled(cell.config["checkpoint"]["every"]),
    }
    return Cell(cell.paper, cell.tier, cell.seed, cell.axes, override(dict(cell.config), changes))


def race(cell: Cell, updates: int, turn: int, warm_up: int) -> tuple[float, float]:
    """Steps per second of the cell's Trainer and of a bare loop.

    Args:
        turn: updates that one makes before it is the other's turn; divides ``updates``.
        warm_up: updates that are not timed.

    Raises:
        RuntimeError: the two did not end with the same weights.
    """
    import torch

    from reproduce.runner import Progress, local_config
    from reproduce.training import build

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            config = local_config(cell, Path(folder))
            ours, other = build(config), build(config)
            turns = _turns(_bare(other.model, other.datamodule, updates), turn)
            ours.trainer.callbacks += [Progress(lambda message: None), turns]
            ours.trainer.fit(ours.model, datamodule=ours.datamodule)
    finally:
        torch.set_num_threads(threads)
    pairs = zip(ours.model.parameters(), other.model.parameters(), strict=True)
    if not all(torch.equal(a, b) for a, b in pairs):
        raise RuntimeError("the Trainer and the bare loop ended with different weights")
    return tuple(_rate(times, turn, warm_up) for times in (turns.ours, turns.theirs))


def _rate(times: Sequence[float], turn: int, warm_up: int) -> float:
    kept = times[warm_up // turn :]
    return turn * len(kept) / sum(kept)


def _bare(model: Any, data: Any, updates: int) -> Iterator[None]:
    """Train as one would by hand; hands back after each update."""
    batches = data.train_dataloader().dataset
    # all that a training step asks of a trainer: where it stands, how many devices, when to log
    stand = SimpleNamespace(
        world_size=1, global_rank=0, global_step=0, log_every_n_steps=updates + 1
    )
    model.trainer = stand
    model.train()
    optimizer = model.configure_optimizers()
    for step, batch in enumerate(islice(batches, updates)):
        stand.global_step = step
        loss = model.training_step(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield


def _turns(bare: Iterator[None], turn: int) -> Any:
    """A callback that stops the clock every ``turn`` updates and lets ``bare`` make as many."""
    from lightning.pytorch.callbacks import Callback

    class Turns(Callback):
        def __init__(self) -> None:
            self.ours: list[float] = []
            self.theirs: list[float] = []

        def on_train_start(self, trainer, pl_module) -> None:
            self.begun = time.perf_counter()

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            if trainer.global_step % turn:
                return
            now = time.perf_counter()
            self.ours.append(now - self.begun)
            for _ in islice(bare, turn):
                pass
            self.begun = time.perf_counter()
            self.theirs.append(self.begun - now)

    return Turns()
