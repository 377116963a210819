"""What SimFlow's images are measured with: the small classifier and what it sees in real ones."""

from dataclasses import dataclass

from datamodules import ClassImages
from lightning_modules.randomness import step_generator

import torch
from torch import Tensor

from reproduce.evaluators.classifier import Classifier, Seen, classifier
from reproduce.evaluators.frechet import frechet_distance

__all__ = ["Ruler", "as_bytes", "ruler"]

_NEIGHBOURS, _REAL = 3, 5000


@dataclass
class Ruler:
    """The classifier of a training set, and the features of real images; the same in every arm.

    Attributes:
        floor: Frechet distance of two halves of the training images.
    """

    net: Classifier
    train: Seen
    held_out: Seen
    floor: float

    def see(self, images: Tensor) -> Seen:
        """Of images in [-1, 1]."""
        return self.net((images + 1) / 2)

    def accuracy(self, seen: Seen, labels: Tensor) -> float:
        """Share of images whose most probable class is the label."""
        return float((seen.classes == self.net.index(labels)).double().mean())

    def precision_recall(self, seen: Seen) -> tuple[float, float]:
        """Shares of samples near real images and of real ones near samples (3 neighbours)."""
        from torch_fidelity.metric_prc import (
            KEY_METRIC_PRECISION,
            KEY_METRIC_RECALL,
            prc_features_to_metric,
        )

        found = prc_features_to_metric(
            seen.features, self.train.features[:_REAL], prc_neighborhood=_NEIGHBOURS,
            prc_batch_size=10_000, save_cpu_ram=False, verbose=False,
        )  # fmt: skip
        return float(found[KEY_METRIC_PRECISION]), float(found[KEY_METRIC_RECALL])


_RULERS: dict[str, Ruler] = {}


def ruler(data: ClassImages) -> Ruler:
    """That of a DataModule's images, made once in a process for each set of them."""
    key = data.fingerprint
    if key not in _RULERS:
        train, held_out = (data.x_train + 1) / 2, (data.x_eval + 1) / 2
        net = classifier(train, data.c_train, held_out, data.c_eval, key)
        seen = net(train)
        order = torch.randperm(len(train), generator=step_generator(0, "halves"))
        halves = seen.features[order].chunk(2)
        _RULERS[key] = Ruler(net, seen, net(held_out), frechet_distance(*halves))
    return _RULERS[key]


def as_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8, 1 at 255."""
    return ((images + 1) * 127.5).nan_to_num().round().clamp(0, 255).to(torch.uint8).cpu()
