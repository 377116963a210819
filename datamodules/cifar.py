"""CIFAR-10 in three forms that are never taken for one another.

    cifar10           the official batches (``cifar-10-python.tar.gz``, or the folder in it):
                      50,000 + 10,000
    cifar10_lossless  exact pixels of 4,656 + 1,000 of them, in the official layout with short
                      batches: original rows 0..3999 and 0..163 of the other four batches; test
                      rows 0..999
    cifar10_jpeg      all of them in the original order, but through JPEG (quality 75, 4:2:0): fit
                      to train on, not for bits/dim or entropies beside printed values

All are RGB of 32 x 32 with the splits ``train`` and ``test``.
"""

from __future__ import annotations

__all__ = ["CIFAR10", "CIFAR10_JPEG", "CIFAR10_LOSSLESS"]

import io
import re
from functools import partial
from pathlib import Path, PurePosixPath

from datamodules.archives import members
from datamodules.cache import Arrays, DataError, one_line
from datamodules.image_batches import read_batches
from datamodules.pickles import unpickle
from datamodules.pixels import PixelFile, decode
from datamodules.places import Hub, Inputs, Source, check_counts, check_file, find

import numpy as np

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
BATCHES = {
    "train": tuple(f"data_batch_{k}" for k in range(1, 6)),
    "test": ("test_batch",),
}
# images in all and in each class; a shortened set has classes of many sizes
COUNTS = {
    "cifar10": {"train": (50_000, 5_000), "test": (10_000, 1_000)},
    "cifar10_jpeg": {"train": (50_000, 5_000), "test": (10_000, 1_000)},
    "cifar10_lossless": {"train": (4_656, None), "test": (1_000, None)},
}
ARCHIVES = {
    "cifar10": ("cifar-10-python.tar.gz", "cifar-10-batches-py"),
    "cifar10_lossless": (
        "cifar-10-python-lossless-subset.tar.gz",
        "cifar-10-python-lossless-subset.tar.xz",
        "cifar-10-batches-py",
    ),
}
TREE = ("cifar10-jpg-tree.tar.xz", "CIFAR-10-images")
ORDER = "cifar10-original-order-labels.npz"
# how to come by what no Hub has
_OWN = "put them into a folder named in ENTROFLOW_DATA"
GET = {"cifar10": "", "cifar10_jpeg": _OWN, "cifar10_lossless": _OWN}
# MD5 and SHA-256 as published: of archives, and of the files in them
PUBLISHED = {
    "cifar10": {
        "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
    "cifar10_lossless": {
        "cifar-10-python-lossless-subset.tar.gz": (
            "96c9c450a9eec0b4249c37ae8d92ab7ad94c580e6f31439b3983fb95c12e0771"
        ),
        "cifar-10-python-lossless-subset.tar.xz": (
            "2ac07cc74f46263a3d8f8a223e195c6e0c797addd226300c5ad8ef69f26f6789"
        ),
        "data_batch_1": "a0aa544773f022560c4437c3267cc23b26832ff2ddb5fae884992971f9e03d4e",
        "data_batch_2": "b4f0a007ab966effda74187ea43b9c5fec3ec1b6c40c3954404b4eeaf4d968d0",
        "data_batch_3": "5eb48540ca0cb269f3a7043417b1abd37602317bebf50562059e1ec7fddc8a00",
        "data_batch_4": "d1e0eb3327bc0d9da465fc0a89ed05db34e8cd55b5d3f9b55b5c357de8e9bd56",
        "data_batch_5": "d772056d068fe925e8a198b7c5d9f8d4859076f37ee433c20e7bc0d071058302",
        "test_batch": "0f44dc89188620f3d8c061289df73039c40e9c9fc1ca88739f3d6361ef6b4940",
        "batches.meta": "498240c6d8641987404ce4ed1e6ddffdb7202de740e9c30aedfddb40713fd75d",
    },
    "cifar10_jpeg": {
        TREE[0]: "f2336affefc8346dac173ee328a61090d6d1ce92d55641c30afb49d9e42226ab",
        ORDER: "100457827cb30b2869dbdce3761c5279714820de9a8c6fa4d0dcc7cbc3037527",
    },
}


def _batch_inputs(source: str, split: str, root: Path | None) -> Inputs:
    return find(source, [ARCHIVES[source]], root, get=GET[source])


def _read_batches(source: str, split: str, inputs: Inputs, folder: Path) -> Arrays:
    path, where = Path(inputs[0]), f"{source} {split}"
    verified = list(check_file(path, PUBLISHED[source]))

    def check(name: str, content: bytes) -> None:
        verified.extend(check_file(path / name, PUBLISHED[source], content))
        if PurePosixPath(name).name == "batches.meta":
            classes = unpickle(f"{path}: {name}", content).get("label_names")
            if classes != list(CLASSES):
                raise DataError(f"{path}: the classes are {classes}, not CIFAR-10's; get it again")

    images, labels = read_batches(where, [path], BATCHES[split], 32, folder, check)
    verified += check_counts(where, labels, 10, COUNTS[source][split])
    return Arrays(images, labels, CLASSES, tuple(verified))


def _tree_inputs(split: str, root: Path | None) -> Inputs:
    return find("cifar10_jpeg", [TREE, (ORDER,)], root, get=GET["cifar10_jpeg"])


def _read_tree(split: str, inputs: Inputs, folder: Path) -> Arrays:
    """The k-th image of a class in the tree is its k-th image in the original order."""
    where, published = f"cifar10_jpeg {split}", PUBLISHED["cifar10_jpeg"]
    tree, order = map(Path, inputs)
    verified = (*check_file(tree, published), *check_file(order, published))
    try:
        with np.load(io.BytesIO(order.read_bytes()), allow_pickle=False) as arrays:
            labels = arrays[split].astype(np.int64)
    except Exception as error:  # whatever a damaged .npz comes up with
        raise DataError(f"{order} is truncated or damaged ({one_line(error)})") from error
    verified += check_counts(where, labels, 10, COUNTS["cifar10_jpeg"][split])
    places = [np.flatnonzero(labels == label) for label in range(10)]
    pattern = re.compile(rf"(?:.*/)?{split}/({'|'.join(CLASSES)})/(\d+)\.jpg")
    rows: dict[int, int] = {}  # row in the original order -> when it came
    with PixelFile(folder, where) as pixels:
        for name, content in members(tree):
            if match := pattern.fullmatch(name):
                label, rank = CLASSES.index(match[1]), int(match[2])
                if rank >= len(places[label]):
                    raise DataError(f"{tree}: {name} is one more than {order.name} has labels for")
                if int(places[label][rank]) in rows:
                    raise DataError(f"{tree} has {name} twice; get it again")
                rows[int(places[label][rank])] = len(rows)
                pixels.append(decode(f"{tree}: {name}", content(), rgb=True)[None])
        if len(rows) != len(labels):
            raise DataError(
                f"{tree} has {len(rows):,} of the {len(labels):,} images of {split}; get it again"
            )
        images = pixels.finish([rows[row] for row in range(len(rows))])
    return Arrays(images, labels, CLASSES, verified)


def _batches_source(source: str, hub: Hub | None = None) -> Source:
    return Source(
        lambda root: tuple(BATCHES),
        partial(_batch_inputs, source),
        partial(_read_batches, source),
        hub,
    )


CIFAR10 = _batches_source(
    "cifar10", Hub("uoft-cs/cifar10", {"train": ("train", 50_000), "test": ("test", 10_000)})
)
CIFAR10_LOSSLESS = _batches_source("cifar10_lossless")
CIFAR10_JPEG = Source(lambda root: tuple(BATCHES), _tree_inputs, _read_tree)
