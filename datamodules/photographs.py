"""The large sets of the papers, from the files as published, with the papers' preprocessing.

    celeba                 64 x 64: the aligned faces, 148 x 148 cut out from row 40, column 15,
                           bilinear; official partition, splits train, val, test; one class
    imagenet32, imagenet64 the official downsampled sets (box resize), as batches in .zip, .npz or
                           a folder; splits train, val; classes are numbered, in the sets' own
                           order, which is not that of the WordNet ids
    imagenet256, imagenet512
                           ADM's centre crop of the ILSVRC 2012 photographs in
                           <split>/<wnid>/<file>; splits train, val
    lsun_bedroom, lsun_church_outdoor, lsun_tower
                           ADM's centre crop to 64 x 64 of the images in <category>_<split>/,
                           exported from LSUN's databases; splits train, val; one class. EIW-Flow
                           does not say which categories, size or crop it took.

All are RGB. Images are decoded one by one into the cache; no set is ever held in memory.
"""

from __future__ import annotations

__all__ = ["PHOTOGRAPHS"]

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from datamodules.cache import Arrays, DataError
from datamodules.image_batches import read_batches
from datamodules.image_folders import class_images, indices
from datamodules.places import Inputs, Source, check_counts, check_file, find

import numpy as np

if TYPE_CHECKING:
    pass

KINDS = ("", ".tar", ".zip", ".tar.gz")  # a folder, or an archive of it
FACES = ("img_align_celeba.zip", "img_align_celeba")
PARTITION = "list_eval_partition.txt"
CELEBA_MD5 = {
    FACES[0]: "00d2c5bc6d35e252742224ab0c1e8fcb",
    PARTITION: "d32c9cbf5e040fd4025c592c306e6668",
}
COUNTS = {
    "celeba": {"train": 162_770, "val": 19_867, "test": 19_962},
    "imagenet": {"train": 1_281_167, "val": 50_000},
    "lsun_bedroom": {"train": 3_033_042, "val": 300},
    "lsun_church_outdoor": {"train": 126_227, "val": 300},
    "lsun_tower": {"train": 708_264, "val": 300},
}
IMAGENET_CLASSES = 1_000


def _celeba_inputs(split: str, root: Path | None) -> Inputs:
    return find(
        "celeba",
        [FACES, (PARTITION,)],
        root,
        get="download `Align&Cropped Images` and the partition from CelebA's page",
    )


def _celeba_read(split: str, inputs: Inputs, folder: Path) -> Arrays:
    from datamodules.resizing import celeba_crop

    faces, partition = map(Path, inputs)
    verified = (*check_file(faces, CELEBA_MD5), *check_file(partition, CELEBA_MD5))
    code = str(list(COUNTS["celeba"]).index(split))
    lines = partition.read_text(encoding="utf-8", errors="replace").splitlines()
    wanted = {name for name, part in map(str.split, filter(None, lines)) if part == code}

    def key(name: str) -> tuple[str, str] | None:
        file = PurePosixPath(name).name
        return ("face", file) if file in wanted else None

    where = f"celeba {split}"
    labels, _, images = class_images(where, faces, key, folder, celeba_crop)
    numbers = np.zeros(len(labels), np.int64)
    verified += check_counts(where, numbers, 1, (COUNTS["celeba"][split], None))
    return Arrays(images, numbers, ("face",), verified)


def _batch_inputs(size: int, split: str, root: Path | None) -> Inputs:
    stem = f"Imagenet{size}_{split}"
    parts = ("_part1", "_part2") if (size, split) == (64, "train") else ("",)
    names = [(f"{stem}{part}.zip", f"{stem}{part}_npz.zip", stem) for part in parts]
    get = "download it from image-net.org, where it is called downsampled"
    return find(f"imagenet{size}", names, root, get=get)


def _batch_read(size: int, split: str, inputs: Inputs, folder: Path) -> Arrays:
    where, train = f"imagenet{size} {split}", [f"train_data_batch_{k}" for k in range(1, 11)]
    wanted = train if split == "train" else ["val_data"]
    images, labels = read_batches(where, [Path(path) for path in inputs], wanted, size, folder)
    labels -= 1  # they count from 1
    verified = check_counts(where, labels, IMAGENET_CLASSES, (COUNTS["imagenet"][split], None))
    return Arrays(images, labels, tuple(map(str, range(1, IMAGENET_CLASSES + 1))), verified)


def _imagenet_inputs(size: int, split: str, root: Path | None) -> Inputs:
    names = [tuple(f"{split}{kind}" for kind in KINDS)]
    get = f"sort ILSVRC 2012 into $ENTROFLOW_DATA/imagenet/{split}/<wnid>/<file>"
    return find(f"imagenet{size}", names, root, home="imagenet", get=get)


def _lsun_inputs(category: str, split: str, root: Path | None) -> Inputs:
    names = [tuple(f"{category}_{split}{kind}" for kind in KINDS)]
    get = f"export LSUN's database to image files in $ENTROFLOW_DATA/lsun/{category}_{split}/"
    return find(f"lsun_{category}", names, root, home="lsun", get=get)


def _adm_read(
    source: str, size: int, one: str | None, split: str, inputs: Inputs, folder: Path
) -> Arrays:
    """A tree of photographs cut to ``size``; its classes are its folders, or ``one`` in all."""
    from datamodules.resizing import adm_crop

    path, where = Path(inputs[0]), f"{source} {split}"

    def key(name: str) -> tuple[str, str] | None:
        parts = PurePosixPath(name).parts
        if one is None and (len(parts) < 2 or not re.fullmatch(r"n\d{8}", parts[-2])):
            raise DataError(f"{where}: {path} has {name!r} in no folder named by a WordNet id")
        return one or parts[-2], name

    crop = partial(adm_crop, size=size)
    found, _, images = class_images(where, path, key, folder, crop)
    classes = sorted(set(found))
    labels = indices(found, classes)
    counts = COUNTS["imagenet" if one is None else source]
    verified = check_counts(where, labels, len(classes), (counts[split], None))
    if one is None and len(classes) != IMAGENET_CLASSES:
        raise DataError(f"{where}: {path} has {len(classes)} classes, not {IMAGENET_CLASSES}")
    return Arrays(images, labels, tuple(classes), verified)


def _adm(
    source: str, size: int, home: str, locate: Callable[..., Inputs], one: str | None = None
) -> Source:
    read = partial(_adm_read, source, size, one)
    return Source(lambda root: ("train", "val"), locate, read, home=home)


PHOTOGRAPHS: dict[str, Source] = {
    "celeba": Source(lambda root: tuple(COUNTS["celeba"]), _celeba_inputs, _celeba_read),
    **{
        f"imagenet{size}": Source(
            lambda root: ("train", "val"), partial(_batch_inputs, size), partial(_batch_read, size)
        )
        for size in (32, 64)
    },
    **{
        f"imagenet{size}": _adm(
            f"imagenet{size}", size, "imagenet", partial(_imagenet_inputs, size)
        )
        for size in (256, 512)
    },
    **{
        f"lsun_{category}": _adm(
            f"lsun_{category}",
            64,
            "lsun",
            partial(_lsun_inputs, category),
            category.replace("_", " "),
        )
        for category in ("bedroom", "church_outdoor", "tower")
    },
}
