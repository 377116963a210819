"""Images and their classes as SimFlow reads them: values in [-1, 1], mirrored at random if asked.

Images stay in the cache's memory-mapped file until a batch of them is made, so that a set may be
larger than the memory.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from datamodules.augmentations import flip
from datamodules.batches import Chunks, StepBatches, generator, loader
from datamodules.cache import fingerprint
from datamodules.photographs import COUNTS, IMAGENET_CLASSES
from datamodules.sources import DataError, ImageSet, first_per_class, load
from datamodules.stored_images import KNOWN

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader

__all__ = ["ClassImages"]

# What can be said of a training set before it is read: the shape of an image, the number of
# classes, and how many images the smallest class has at least.
SETS = KNOWN | {
    "imagenet_sample": ((3, 256, 256), IMAGENET_CLASSES, 1),
    **{f"imagenet{s}": ((3, s, s), IMAGENET_CLASSES, 732) for s in (32, 64, 256, 512)},
}
# and what the largest class has, and all of them together
WHOLE = {f"imagenet{s}": (1300, COUNTS["imagenet"]["train"]) for s in (32, 64, 256, 512)}


@dataclass(frozen=True, eq=False)
class _Part:
    """Some images of a split, by their numbers in it."""

    data: ImageSet
    rows: np.ndarray

    def images(self, at: slice | Tensor = slice(None)) -> UInt8[Tensor, "n C H W"]:
        """Those at these places among the rows, read anew at each call."""
        return torch.from_numpy(self.data.images[self.rows[at]])

    @cached_property
    def labels(self) -> Int[Tensor, " n"]:
        return torch.from_numpy(self.data.labels[self.rows])

    @cached_property
    def places(self) -> Int[Tensor, " n"]:
        return torch.arange(len(self.rows))

    @property
    def fingerprint(self) -> str:
        if len(self.rows) == len(self.data):  # known without reading a large set through
            return self.data.fingerprint
        return fingerprint(self.images().numpy(), self.labels.numpy())


class ClassImages(L.LightningDataModule):
    """Training batches (images, labels) and held-out ones.

    Images are (B, C, H, W), float32, ``byte / 127.5 - 1`` in [-1, 1]; labels (B,), int64. Which
    images are trained on and which are held out does not depend on ``seed``.

    Args:
        source: a name that ``datamodules.load`` knows.
        root: where its files are, if not in the usual places.
        size: height and width wanted, by box averages; the source's own without.
        n_per_class: the first so many training images of each class, in the set's order; a class
            that has fewer gives all it has.
        n_eval_per_class: of the held-out split.
        eval_split: the split to hold out, for sources that have no ``test``.
        batch_size: images per update over all devices together.
        flip: mirror half of the training images left to right, drawn anew each time they are
            seen. Not for digits: their mirror images are of no class.
        seed: orders the training batches and draws the flips.

    Raises:
        DataError: a number below 1; where data are first needed, as ``load`` does.
    """

    def __init__(
        self,
        source: str = "mnist",
        root: str | Path | None = None,
        size: int | None = None,
        n_per_class: int = 1_000_000,
        n_eval_per_class: int = 1_000_000,
        eval_split: str = "test",
        batch_size: int = 64,
        flip: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(n_per_class, n_eval_per_class, batch_size) < 1:
            raise DataError("n_per_class, n_eval_per_class and batch_size must be at least 1")
        self.source, self.root, self.size = source, root, size
        self.n_per_class, self.n_eval_per_class = n_per_class, n_eval_per_class
        self.eval_split, self.batch_size = eval_split, batch_size
        self.flip, self.seed = flip, seed

    # ------------------------------------------------------------------------- as bytes
    def _part(self, split: str, n: int) -> _Part:
        data = load(self.source, split, self.root, self.size)
        return _Part(data, first_per_class(data.labels, n))

    @cached_property
    def _train(self) -> _Part:
        return self._part("train", self.n_per_class)

    @cached_property
    def _held_out(self) -> _Part:
        return self._part(self.eval_split, self.n_eval_per_class)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the images and labels that are trained on and held out."""
        prints = self._train.fingerprint + self._held_out.fingerprint
        return hashlib.sha256(prints.encode()).hexdigest()

    # ------------------------------------------------------------------------- as a model sees
    @property
    def x_train(self) -> Float[Tensor, "n C H W"]:
        """All training images, none mirrored, in the set's order; made anew at each call."""
        return _centred(self._train.images())

    @property
    def x_eval(self) -> Float[Tensor, "n C H W"]:
        """The held-out images; made anew at each call."""
        return _centred(self._held_out.images())

    @property
    def c_train(self) -> Int[Tensor, " n"]:
        """Labels of the training images, int64."""
        return self._train.labels

    @property
    def c_eval(self) -> Int[Tensor, " n"]:
        """Labels of the held-out images, int64."""
        return self._held_out.labels

    # ------------------------------------------------------------------------- before reading
    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W); without reading, where the source is known."""
        if self.source not in SETS:
            return tuple(self._train.data.images.shape[1:])
        shape = SETS[self.source][0]
        return shape if self.size is None else (shape[0], self.size, self.size)

    @property
    def n_classes(self) -> int:
        """Classes of the source; without reading, where it is known."""
        if self.source in SETS:
            return SETS[self.source][1]
        return len(self._train.data.classes)

    @property
    def n_train(self) -> int:
        """Training images; without reading, where the source is known to have enough or few."""
        _, classes, least = SETS.get(self.source, (None, 0, 0))
        most, whole = WHOLE.get(self.source, (math.inf, 0))
        if self.n_per_class <= least:
            return classes * self.n_per_class
        return whole if self.n_per_class >= most else len(self._train.rows)

    @property
    def updates_per_epoch(self) -> int:
        return math.ceil(self.n_train / self.batch_size)

    def example_batch(self, n: int | None = None) -> tuple[Tensor, Tensor]:
        """A training batch of ``n`` rows (as many as an update takes) in shape and type only."""
        if n is None:
            _, classes, least = SETS.get(self.source, (None, 0, 0))
            enough = self.batch_size <= classes * min(self.n_per_class, least)
            n = self.batch_size if enough else min(self.batch_size, self.n_train)
        return torch.zeros(n, *self.image_shape), torch.zeros(n, dtype=torch.int64)

    # ------------------------------------------------------------------------- loaders
    def train_dataloader(self) -> DataLoader:
        """Batches without end, a function of (seed, update) alone, from the current update on."""
        part, trainer = self._train, self.trainer
        rank = trainer.global_rank if trainer else 0

        def ready(batch: tuple[Tensor, Tensor], update: int) -> tuple[Tensor, Tensor]:
            images = part.images(batch[0])
            if self.flip:
                rng = generator(self.seed, "flip", update)
                torch.rand(rank * len(images), generator=rng)  # what the ranks before it draw
                images = flip(images, rng)
            return _centred(images), batch[1]

        arrays = part.places, part.labels
        return loader(StepBatches.of(trainer, arrays, self.batch_size, self.seed, ready))

    def _evaluation(self) -> DataLoader:
        part = self._held_out

        def ready(batch: tuple[Tensor, Tensor], number: int) -> tuple[Tensor, Tensor]:
            return _centred(part.images(batch[0])), batch[1]

        return loader(Chunks((part.places, part.labels), self.batch_size, ready))

    def val_dataloader(self) -> DataLoader:
        return self._evaluation()

    def test_dataloader(self) -> DataLoader:
        return self._evaluation()

    def predict_dataloader(self) -> DataLoader:
        return self._evaluation()


def _centred(images: Tensor) -> Tensor:
    """uint8 to float32 in [-1, 1]."""
    return images.to(torch.float32).div_(127.5).sub_(1)
