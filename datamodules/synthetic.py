"""Images that are made here, of independent pixels whose law is known: they need no files."""

from __future__ import annotations

__all__ = ["CHANNELS", "NOISE"]

from collections.abc import Callable
from pathlib import Path

from datamodules.cache import Arrays
from datamodules.places import Inputs, Source

import numpy as np

SHAPE = (4, 8, 8)
SPREAD = 16.0  # standard deviation of every pixel, on the scale 0..255, about 128


def _source(
    draw: Callable[[np.random.Generator, int], np.ndarray], version: str, train: int
) -> Source:
    """A source whose split ``s`` is ``draw`` by a generator of its own, rounded to bytes."""
    sizes = {"train": train, "test": 1000}

    def read(split: str, inputs: Inputs, folder: Path) -> Arrays:
        n = sizes[split]
        values = 128 + SPREAD * draw(np.random.default_rng([7, len(split)]), n)
        images = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        return Arrays(images, np.zeros(n, np.int64), ("made",))

    return Source(lambda root: tuple(sizes), lambda split, root: (version,), read)


def _normal(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal((n, *SHAPE))


def _channels(rng: np.random.Generator, n: int) -> np.ndarray:
    """A normal, a Laplace, a two-peaked and a mostly constant channel, of unit variance each."""
    size = (n, *SHAPE[1:])
    sign = rng.integers(2, size=size) * 2 - 1
    rare = rng.random(size) < 0.1
    return np.stack(
        [
            rng.standard_normal(size),
            rng.laplace(scale=0.5**0.5, size=size),
            0.95 * sign + (1 - 0.95**2) ** 0.5 * rng.standard_normal(size),
            np.where(rare, 3.0, 0.3) * rng.standard_normal(size) / (0.1 * 9 + 0.9 * 0.09) ** 0.5,
        ],
        axis=1,
    )


# independent normal pixels; independent pixels of four laws, one a channel
NOISE = _source(_normal, "normal noise 2", train=96_000)  # so many that none is learned by heart
CHANNELS = _source(_channels, "four channels 1", train=4000)
