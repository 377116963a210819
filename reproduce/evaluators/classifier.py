"""The suite's small classifier: what it sees in an image is the ruler for generated ones.

It is trained in seconds, or half a minute where images are many, on a source's own training
images and labels, from one seed, on the CPU, so that every arm of every run on the same images is
measured with the same ruler. It is frozen, and never part of a model: neither its optimiser nor
its checkpoint knows of it.
"""

from dataclasses import dataclass

from lightning_modules.randomness import step_generator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Classifier", "Seen", "classifier"]

FEATURES = 64
_UPDATES, _BATCH, _LR = 300, 128, 5e-3
_FEW, _IMAGES, _MOST = 2000, 20, 2500  # half a minute of one core on 50,000 images of 16 pixels
_CHUNK = 500

_TRAINED: dict[str, "Classifier"] = {}

Images = Float[Tensor, "n C H W"]
Labels = Int[Tensor, " n"]


@dataclass
class Seen:
    """What the classifier makes of images.

    Attributes:
        features: (n, 64), of its last hidden layer.
        probabilities: (n, classes).
    """

    features: Tensor
    probabilities: Tensor

    @property
    def classes(self) -> Int[Tensor, " n"]:
        """The most probable class of each image, as its index among the classes."""
        return self.probabilities.argmax(1)

    def sure(self, level: float = 0.9) -> float:
        """Share of the images to which some class is given more than ``level``."""
        return float((self.probabilities.amax(1) > level).double().mean())

    def inception_score(self) -> float:
        """``exp`` of the mean divergence of the probabilities from their mean: 1 to classes.

        The inception score's formula; on this classifier, so comparable with nothing printed.
        """
        p = self.probabilities.double()
        return float(torch.exp((torch.xlogy(p, p) - torch.xlogy(p, p.mean(0))).sum(1).mean()))

    def class_entropy(self) -> float:
        """Entropy of the histogram of classes, in nats: ln(classes) if all are as frequent."""
        share = torch.bincount(self.classes, minlength=self.probabilities.shape[1]).double()
        share = share / share.sum()
        return float(-torch.xlogy(share, share).sum())


class Classifier:
    """A trained network, frozen and in eval mode, on the CPU.

    Attributes:
        labels: (classes,), the label of each class.
        accuracy: the share of held-out images whose class it names.
    """

    def __init__(self, net: nn.Sequential, labels: Labels) -> None:
        self.net, self.labels = net.requires_grad_(False).eval(), labels
        self.accuracy = float("nan")

    @torch.no_grad()
    def __call__(self, images: Images) -> Seen:
        """Features and probabilities of images whose pixels lie in [0, 1]."""
        *hidden, head = self.net
        features = torch.cat(
            [nn.Sequential(*hidden)(part.cpu().float()) for part in images.split(_CHUNK)]
        )
        return Seen(features, head(features).softmax(1))

    def index(self, labels: Labels) -> Labels:
        """The index of each label among the classes."""
        return torch.searchsorted(self.labels, labels)


def classifier(
    images: Images, labels: Labels, held_out: Images, held_out_labels: Labels, key: str
) -> Classifier:
    """The classifier of these training images, whose pixels lie in [0, 1].

    Sides of 8 to 32 pixels are what it is made for. It is trained once in a process for each
    ``key``, which names the images and labels (a fingerprint).
    """
    if key not in _TRAINED:
        net = _train(images, labels)
        right = net(held_out).classes == net.index(held_out_labels)
        net.accuracy = float(right.double().mean())
        _TRAINED[key] = net
    return _TRAINED[key]


def _network(channels: int, classes: int) -> nn.Sequential:
    def convolution(i: int, o: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 3, stride, padding=1), nn.BatchNorm2d(o), nn.ReLU()]

    return nn.Sequential(
        *convolution(channels, 16, 1),
        *convolution(16, 32, 2),
        *convolution(32, 32, 2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 32, FEATURES),
        nn.SiLU(),  # a unit that is off everywhere would be a feature without spread
        nn.Linear(FEATURES, classes),
    )


def _updates(images: int) -> int:
    """As ever up to ``_FEW`` images, then one more for each ``_IMAGES``, up to ``_MOST``."""
    return min(_MOST, _UPDATES + max(0, images - _FEW) // _IMAGES)


@torch.enable_grad()
def _train(images: Images, labels: Labels) -> Classifier:
    known, target = labels.unique(return_inverse=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = _network(images.shape[1], len(known))
    optimizer = torch.optim.Adam(net.parameters(), lr=_LR)
    updates = _updates(len(images))
    for update in range(updates):
        rows = torch.randint(
            len(images), (_BATCH,), generator=step_generator(0, "classifier", update)
        )
        loss = F.cross_entropy(net(images[rows].cpu().float()), target[rows])
        optimizer.param_groups[0]["lr"] = _LR * (1 - update / updates)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Classifier(net, known)
