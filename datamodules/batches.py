"""Training batches as a function of (seed, update) alone, so that a resumed run is exact."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

__all__ = ["Chunks", "StepBatches", "generator", "loader"]

Ready = Callable[[Any, int], Any]  # a batch and its number, to the batch as a model gets it


def as_it_is(batch: Any, number: int) -> Any:
    return batch


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator whose stream depends on ``seed`` and ``names`` and on nothing else."""
    words = [w for name in names for w in (name.encode() if isinstance(name, str) else [name])]
    state = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


class StepBatches(IterableDataset):
    """Batches without end: epoch e is a permutation seeded by (seed, e), cut in order.

    The last batch of an epoch is kept even if it is short, as the authors do; over several
    devices, where each must have equally many rows, it is dropped.

    Args:
        arrays: tensors (or arrays) with equally many rows; a batch has the same rows of each,
            bare when there is but one.
        batch_size: rows per update over all devices together.
        start: the update to begin with.
        rank, world: this device among how many; it gets its slice of each batch.
        ready: makes the batch of an update what a model gets.
    """

    def __init__(
        self,
        arrays: Sequence[Tensor],
        batch_size: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        ready: Ready = as_it_is,
    ) -> None:
        n = len(arrays[0])
        batch_size = min(batch_size, n)
        if world > 1 and batch_size % world:
            raise ValueError(
                f"batch_size {batch_size} cannot be shared by {world} devices: "
                f"make it a multiple of {world}"
            )
        self.arrays, self.batch_size, self.seed, self.start = arrays, batch_size, seed, start
        self.rank, self.world, self.ready = rank, world, ready
        self.per_epoch = n // batch_size if world > 1 else -(-n // batch_size)

    @classmethod
    def of(
        cls,
        trainer: Any,
        arrays: Sequence[Tensor],
        batch_size: int,
        seed: int,
        ready: Ready = as_it_is,
    ):
        """The batches that ``trainer`` (or None) wants next: its update, its share.

        Raises:
            ValueError: the trainer accumulates gradients, so that an update is not one batch.
        """
        if trainer is None:
            return cls(arrays, batch_size, seed, ready=ready)
        if trainer.accumulate_grad_batches != 1:
            raise ValueError(
                "trainer.accumulate_grad_batches must be 1, for an update is one batch here: "
                "raise data.init_args.batch_size instead"
            )
        rank, world = trainer.global_rank, trainer.world_size
        return cls(arrays, batch_size, seed, trainer.global_step, rank, world, ready)

    def indices(self, update: int, order: Tensor) -> Tensor:
        at = update % self.per_epoch * self.batch_size
        share = self.batch_size // self.world
        rows = order[at : at + self.batch_size]
        return rows if self.world == 1 else rows[self.rank * share : (self.rank + 1) * share]

    def __iter__(self) -> Iterator[Any]:
        update, epoch, order = self.start, -1, torch.empty(0)
        while True:
            if update // self.per_epoch != epoch:
                epoch = update // self.per_epoch
                order = torch.randperm(
                    len(self.arrays[0]), generator=generator(self.seed, "order", epoch)
                )
            rows = self.indices(update, order)
            yield self.ready(_bare([a[rows] for a in self.arrays]), update)
            update += 1


class Chunks(Dataset):
    """Rows of equally long arrays in consecutive chunks, bare when there is but one array.

    The last chunk may be shorter.
    """

    def __init__(self, arrays: Sequence[Tensor], size: int, ready: Ready = as_it_is) -> None:
        self.arrays, self.size, self.ready = arrays, size, ready

    def __len__(self) -> int:
        return math.ceil(len(self.arrays[0]) / self.size)

    def __getitem__(self, i: int) -> Any:
        if not 0 <= i < len(self):
            raise IndexError(i)
        rows = slice(i * self.size, (i + 1) * self.size)
        return self.ready(_bare([a[rows] for a in self.arrays]), i)


def loader(batches: Dataset) -> DataLoader:
    """Batches as they come: PyTorch's own collation would turn a tuple into a list."""
    return DataLoader(batches, batch_size=None, collate_fn=_unchanged)


def _unchanged(batch: Any) -> Any:
    return batch


def _bare(batch: Sequence[Tensor]) -> Any:
    return tuple(batch) if len(batch) > 1 else batch[0]
