"""Images as a diffusion model stores them: values in [0, 1], the first n of each class.

As the authors feed them: no centring, no dequantisation, no flips. S_NN depends on the scale of
the values, so they are part of what is measured.
"""

import hashlib
import math
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.batches import Chunks, StepBatches, loader
from datamodules.cache import fingerprint
from datamodules.sources import DataError, first_per_class, load

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader

__all__ = ["StoredImages"]

# What can be said of a training set before it is read: the shape of an image, the number of
# classes, and how many images the smallest class has at least.
KNOWN = {
    "digits": ((1, 8, 8), 10, 146),
    "mnist": ((1, 28, 28), 10, 5421),
    "cifar10": ((3, 32, 32), 10, 5000),
    "cifar10_lossless": ((3, 32, 32), 10, 434),
    "cifar10_jpeg": ((3, 32, 32), 10, 5000),
    "tiny_imagenet": ((3, 64, 64), 200, 100),
}


class StoredImages(L.LightningDataModule):
    """Training batches (B, C, H, W), float32 in [0, 1], and held-out images for evaluation.

    Which images are trained on and which are held out does not depend on ``seed``. Data are read
    when they are first asked for, and kept as bytes: a batch becomes float as it is made.

    Args:
        source: a name that ``datamodules.load`` knows.
        root: where its files are, if not in the usual places.
        size: height and width wanted, by box averages; the source's own without.
        n_per_class: the first so many training images of each class, in the set's order; a class
            that has fewer gives all it has (paper: 10, 100, 1000, 3000, 5000 or all).
        n_eval: the first so many images of the held-out split (paper: 1000).
        eval_split: the split to hold out, for sources that have no ``test``.
        batch_size: images per update over all devices together.
        labelled: batches are tuples (images, labels), with int64 labels (B,), for a
            class-conditional model.
        seed: orders the training batches.

    Raises:
        DataError: a number below 1; where data are first needed, as ``load`` does, and if the
            held-out split has fewer than ``n_eval`` images.
    """

    def __init__(
        self,
        source: str = "mnist",
        root: str | Path | None = None,
        size: int | None = None,
        n_per_class: int = 10_000,
        n_eval: int = 1000,
        eval_split: str = "test",
        batch_size: int = 32,
        labelled: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(n_per_class, n_eval, batch_size) < 1:
            raise DataError("n_per_class, n_eval and batch_size must be at least 1")
        self.source, self.root, self.size = source, root, size
        self.n_per_class, self.n_eval, self.eval_split = n_per_class, n_eval, eval_split
        self.batch_size, self.labelled, self.seed = batch_size, labelled, seed

    # ------------------------------------------------------------------------- as bytes
    @cached_property
    def _train(self) -> tuple[np.ndarray, np.ndarray]:
        data = load(self.source, "train", self.root, self.size)
        rows = first_per_class(data.labels, self.n_per_class)
        return np.asarray(data.images)[rows], data.labels[rows]

    @cached_property
    def _held_out(self) -> tuple[np.ndarray, np.ndarray]:
        data = load(self.source, self.eval_split, self.root, self.size)
        if len(data) < self.n_eval:
            raise DataError(
                f"{self.source} {self.eval_split} has {len(data):,} images, not {self.n_eval:,}: "
                f"set data.init_args.n_eval to {len(data)} or less"
            )
        return np.array(data.images[: self.n_eval]), np.array(data.labels[: self.n_eval])

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the images and labels that are trained on and held out."""
        parts = [fingerprint(*part) for part in (self._train, self._held_out)]
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    # ------------------------------------------------------------------------- as points
    @property
    def x_train(self) -> Float[Tensor, "n C H W"]:
        """All training images, in the set's order; made anew at each call."""
        return _floats(torch.from_numpy(self._train[0]))

    @property
    def x_eval(self) -> Float[Tensor, "n C H W"]:
        """The held-out images; made anew at each call."""
        return _floats(torch.from_numpy(self._held_out[0]))

    @property
    def c_train(self) -> Int[Tensor, " n"] | None:
        """Labels of the training images, int64; None where batches have none."""
        return torch.from_numpy(self._train[1]) if self.labelled else None

    @property
    def c_eval(self) -> Int[Tensor, " n"] | None:
        """Labels of the held-out images, int64; None where batches have none."""
        return torch.from_numpy(self._held_out[1]) if self.labelled else None

    def train_points(self, n: int) -> tuple[Float[Tensor, "m C H W"], Int[Tensor, " m"] | None]:
        """The first ``n`` training images, or all if there are fewer, and their labels or None."""
        labels = torch.from_numpy(self._train[1][:n]) if self.labelled else None
        return _floats(torch.from_numpy(self._train[0][:n])), labels

    # ------------------------------------------------------------------------- before reading
    @property
    def n_train(self) -> int:
        """Training images N; without reading them, where the source is known to have enough."""
        _, classes, least = KNOWN.get(self.source, (None, 0, 0))
        return classes * self.n_per_class if self.n_per_class <= least else len(self._train[1])

    @property
    def updates_per_epoch(self) -> int:
        return math.ceil(self.n_train / self.batch_size)

    def example_batch(self, n: int | None = None) -> Any:
        """A training batch of ``n`` rows (as many as an update takes) in shape and type only."""
        shape, classes, least = KNOWN.get(self.source, (None, 0, 0))
        if n is None:
            enough = self.batch_size <= classes * min(self.n_per_class, least)
            n = self.batch_size if enough else min(self.batch_size, self.n_train)
        if shape is None:
            shape = load(self.source, "train", self.root, self.size).images.shape[1:]
        elif self.size is not None:
            shape = (shape[0], self.size, self.size)
        x = torch.zeros(n, *shape)
        return (x, torch.zeros(n, dtype=torch.int64)) if self.labelled else x

    # ------------------------------------------------------------------------- loaders
    def _arrays(self, part: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, ...]:
        """Images as bytes, and their labels if batches have them."""
        return tuple(map(torch.from_numpy, part if self.labelled else part[:1]))

    def train_dataloader(self) -> DataLoader:
        """Batches without end, a function of (seed, update) alone, from the current update on."""
        arrays = self._arrays(self._train)
        return loader(StepBatches.of(self.trainer, arrays, self.batch_size, self.seed, _ready))

    def _evaluation(self) -> DataLoader:
        return loader(Chunks(self._arrays(self._held_out), self.batch_size, _ready))

    def val_dataloader(self) -> DataLoader:
        return self._evaluation()

    def test_dataloader(self) -> DataLoader:
        return self._evaluation()

    def predict_dataloader(self) -> DataLoader:
        return self._evaluation()


def _floats(images: Tensor) -> Tensor:
    """uint8 to float32 in [0, 1]."""
    return images.to(torch.float32).div_(255)


def _ready(batch: Any, number: int) -> Any:
    """A batch of bytes as a model gets it: images become float one batch at a time."""
    return (_floats(batch[0]), *batch[1:]) if isinstance(batch, tuple) else _floats(batch)
