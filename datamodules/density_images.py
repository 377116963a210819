"""Images as a flow reads them: integers of b bits, augmented as they are trained on."""

import hashlib
import math
from functools import cached_property
from pathlib import Path

from datamodules.augmentations import AUGMENTATIONS, DAMAGES, damaged
from datamodules.batches import Chunks, StepBatches, generator, loader
from datamodules.cache import fingerprint
from datamodules.sources import DataError, first_per_class, load
from datamodules.stored_images import KNOWN

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

__all__ = ["DensityImages"]

# shapes of sources that a machine need not have in order to price a run
SHAPES = {name: shape for name, (shape, _, _) in KNOWN.items()} | {
    "celeba": (3, 64, 64),
    "imagenet32": (3, 32, 32),
    "imagenet64": (3, 64, 64),
}


class DensityImages(L.LightningDataModule):
    """Training batches (B, C, H, W), float32 integers 0 .. 2^bits - 1, and held-out images.

    Which images are trained on, held out or damaged does not depend on ``seed``.

    Args:
        source: a name that ``datamodules.load`` knows.
        root: where its files are, if not in the usual places.
        size: height and width wanted, by box averages; the source's own without.
        pad: zeros on every side, after that.
        bits: of a pixel. Fewer than 8 are ``min(round(x 2^bits / 255), 2^bits - 1)``, which gives
            back the digits' own 0 .. 16 with 16 clipped.
        n_per_class: the first so many training images of each class, in the set's order.
        n_eval_per_class: of the held-out split.
        eval_split: the split to hold out, for sources that have no ``test``.
        batch_size: images per update over all devices together.
        augment: ``none``, ``flip``, or ``eta``: flip and shift by up to 4 % (DenseFlow).
        damage: ``gaussian``, ``salt_and_pepper`` or ``clutter``, done to ``damage_share`` of the
            training images once for all.
        seed: orders the training batches and draws the augmentations.

    Raises:
        DataError: a number below 1, bits outside 1 to 8, or an unknown name; where data are first
            needed, as ``load`` does.
    """

    def __init__(
        self,
        source: str = "cifar10",
        root: str | Path | None = None,
        size: int | None = None,
        pad: int = 0,
        bits: int = 8,
        n_per_class: int = 1_000_000,
        n_eval_per_class: int = 1_000_000,
        eval_split: str = "test",
        batch_size: int = 64,
        augment: str = "none",
        damage: str = "gaussian",
        damage_share: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(n_per_class, n_eval_per_class, batch_size) < 1:
            raise DataError("n_per_class, n_eval_per_class and batch_size must be at least 1")
        if not 1 <= bits <= 8 or pad < 0 or not 0 <= damage_share <= 1:
            raise DataError("bits are 1 to 8, pad is 0 or more, damage_share is 0 to 1")
        for kind, name, known in (
            ("augment", augment, AUGMENTATIONS),
            ("damage", damage, DAMAGES),
        ):
            if name not in known:
                raise DataError(f"unknown {kind} {name!r}: choose one of {', '.join(known)}")
        self.source, self.root, self.size, self.pad, self.bits = source, root, size, pad, bits
        self.n_per_class, self.n_eval_per_class = n_per_class, n_eval_per_class
        self.eval_split, self.batch_size, self.augment = eval_split, batch_size, augment
        self.damage, self.damage_share, self.seed = damage, damage_share, seed

    # ------------------------------------------------------------------------- as bytes
    def _read(self, split: str, n: int) -> tuple[Tensor, Tensor]:
        data = load(self.source, split, self.root, self.size)
        rows = first_per_class(data.labels, n)
        images = torch.from_numpy(np.asarray(data.images)[rows])
        return F.pad(images, [self.pad] * 4), torch.from_numpy(data.labels[rows])

    @cached_property
    def _train(self) -> tuple[Tensor, Tensor]:
        images, labels = self._read("train", self.n_per_class)
        if self.damage_share:
            images = damaged(images, self.damage, self.damage_share, "train")
        return images, labels

    @cached_property
    def _held_out(self) -> tuple[Tensor, Tensor]:
        return self._read(self.eval_split, self.n_eval_per_class)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the images and labels that are trained on and held out."""
        parts = [fingerprint(*map(np.asarray, part)) for part in (self._train, self._held_out)]
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    # ----------------------------------------------------------------------- as integers
    @property
    def x_train(self) -> Float[Tensor, "n C H W"]:
        """All training images, without augmentation; made anew at each call."""
        return self._integers(self._train[0])

    @property
    def x_eval(self) -> Float[Tensor, "n C H W"]:
        """The held-out images; made anew at each call."""
        return self._integers(self._held_out[0])

    @property
    def x_eval_damaged(self) -> Float[Tensor, "n C H W"]:
        """The held-out images, all of them damaged."""
        return self._integers(damaged(self._held_out[0], self.damage, 1.0, self.eval_split))

    @property
    def c_train(self) -> Int[Tensor, " n"]:
        """Labels of the training images, int64."""
        return self._train[1]

    @property
    def c_eval(self) -> Int[Tensor, " n"]:
        """Labels of the held-out images, int64."""
        return self._held_out[1]

    def _integers(self, images: Tensor) -> Tensor:
        x = images.to(torch.float32)
        if self.bits == 8:
            return x
        return x.mul_(2**self.bits / 255).round_().clamp_(max=2**self.bits - 1)

    # ------------------------------------------------------------------------- loaders
    @property
    def updates_per_epoch(self) -> int:
        return math.ceil(len(self._train[1]) / self.batch_size)

    def example_batch(self, n: int | None = None) -> Tensor:
        """A training batch of ``n`` rows (as many as an update takes) in shape and type only."""
        shape = SHAPES.get(self.source)
        if shape is None:
            shape = load(self.source, "train", self.root, self.size).images.shape[1:]
        side = (self.size or shape[1]) + 2 * self.pad, (self.size or shape[2]) + 2 * self.pad
        return torch.zeros(n or self.batch_size, shape[0], *side)

    def train_dataloader(self) -> DataLoader:
        """Batches without end, a function of (seed, update) alone, from the current update on."""
        augment = AUGMENTATIONS[self.augment]

        def ready(images: Tensor, update: int) -> Tensor:
            if augment is not None:
                rank = self.trainer.global_rank if self.trainer else 0
                images = augment(images, generator(self.seed, "augment", update, rank))
            return self._integers(images)

        images = self._train[:1]
        return loader(StepBatches.of(self.trainer, images, self.batch_size, self.seed, ready))

    def _evaluation(self) -> DataLoader:
        def ready(images: Tensor, number: int) -> Tensor:
            return self._integers(images)

        return loader(Chunks(self._held_out[:1], self.batch_size, ready))

    def val_dataloader(self) -> DataLoader:
        return self._evaluation()

    def test_dataloader(self) -> DataLoader:
        return self._evaluation()

    def predict_dataloader(self) -> DataLoader:
        return self._evaluation()
