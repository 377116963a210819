"""What generated images are measured with: the small classifier, and what it sees in real ones."""

from dataclasses import dataclass

from lightning_modules.randomness import step_generator

import torch

from reproduce.evaluators.classifier import Classifier, Images, Labels, Seen, classifier
from reproduce.evaluators.frechet import frechet_distance

__all__ = ["Ruler", "ruler"]

_NEIGHBOURS, _REAL, _SETS = 3, 5000, 10

_RULERS: dict[str, "Ruler"] = {}


@dataclass
class Ruler:
    """The classifier of a training set, and what it sees in real images; the same in every arm."""

    net: Classifier
    train: Seen
    held_out: Seen

    def floor(self, n: int) -> float:
        """Frechet distance to the training images of ``n`` drawn from them, with replacement.

        As far away are ``n`` samples of a perfect model that knows these images alone: the mean
        over ten sets of draws, for one alone may be half or twice as far.
        """
        real, rng = self.train.features, step_generator(0, "floor")
        drawn = [torch.randint(len(real), (n,), generator=rng) for _ in range(_SETS)]
        return sum(frechet_distance(real[rows], real) for rows in drawn) / _SETS

    def accuracy(self, seen: Seen, labels: Labels) -> float:
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


def ruler(
    images: Images, labels: Labels, held_out: Images, held_out_labels: Labels, key: str
) -> Ruler:
    """That of these training images, whose pixels lie in [0, 1].

    It is made once in a process for each ``key``, which names the images (a fingerprint).
    """
    if key not in _RULERS:
        net = classifier(images, labels, held_out, held_out_labels, key)
        _RULERS[key] = Ruler(net, net(images), net(held_out))
    return _RULERS[key]
