"""Tiny ImageNet: 200 classes of ImageNet, RGB of 64 x 64, in the data set's own layout.

Splits ``train`` (500 images a class in the full set; the subsets ``train300val`` and
``train100val`` have the first 300 and 100) and ``val`` (50 a class). The classes stand in the
order of ``wnids.txt``, by their first name in ``words.txt``. Train is ordered by class and number,
val by number, with the labels of ``val_annotations.txt``. Grey images (one in fifty) become RGB.
"""

from __future__ import annotations

__all__ = ["TINY_IMAGENET"]

import re
from pathlib import Path, PurePosixPath

from datamodules.archives import members
from datamodules.cache import Arrays, DataError
from datamodules.image_folders import distinct
from datamodules.pixels import PixelFile, decode
from datamodules.places import Hub, Inputs, Source, check_counts, check_file, find

import numpy as np

CLASSES = 200
VAL_EACH = 50
# images of each class in train; an unpacked folder may be any of the three
TRAIN_EACH = {
    "tiny-imagenet-200.full.tar.xz": (500,),
    "tiny-imagenet-200.zip": (500,),
    "tiny-imagenet-200-train300val.tar.xz": (300,),
    "tiny-imagenet-200-train100val.tar.xz": (100,),
    "tiny-imagenet-200": (500, 300, 100),
}
SHA256 = {
    "tiny-imagenet-200.full.tar.xz": (
        "9beb6d0fcd77606a1b899552accd986d0cc5bb52645219edc06b4c042ef2cab4"
    ),
    "tiny-imagenet-200-train300val.tar.xz": (
        "d60b35d0cb3800842cf6eaf097ad9dd03748f3233f032bea4a435c14043bd287"
    ),
    "tiny-imagenet-200-train100val.tar.xz": (
        "067d63e366b2d542b477db8c068c6eac346a6c66bb3feb942a237584605e5a75"
    ),
}
TRAIN = re.compile(r"(?:.*/)?train/(?P<wnid>n\d{8})/images/(?P=wnid)_(?P<number>\d+)\.JPEG")
VAL = re.compile(r"(?:.*/)?val/images/val_(?P<number>\d+)\.JPEG")
TEXTS = ("wnids.txt", "words.txt", "val_annotations.txt")


def _inputs(split: str, root: Path | None) -> Inputs:
    return find("tiny_imagenet", [tuple(TRAIN_EACH)], root)


def _read(split: str, inputs: Inputs, folder: Path) -> Arrays:
    path, where = Path(inputs[0]), f"tiny_imagenet {split}"
    verified = check_file(path, SHA256)
    pattern = TRAIN if split == "train" else VAL
    texts: dict[str, str] = {}
    found: list[re.Match[str]] = []
    with PixelFile(folder, where) as pixels:
        # the lists of classes may come last, so labels and order wait for the end
        for name, content in members(path):
            if PurePosixPath(name).name in TEXTS:
                texts[PurePosixPath(name).name] = content().decode(errors="replace")
            elif match := pattern.fullmatch(name):
                found.append(match)
                pixels.append(decode(f"{path}: {name}", content(), rgb=True)[None])
        wnids, names = _classes(path, texts)
        if split == "train":
            keys = [(_index(path, wnids, m["wnid"]), int(m["number"])) for m in found]
        else:
            given = _annotations(path, texts, wnids)
            keys = [(0, int(m["number"])) for m in found]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        images = pixels.finish(order)
    try:
        labels = [keys[i][0] if split == "train" else given[keys[i][1]] for i in order]
    except KeyError as number:
        raise DataError(f"{path}: val_annotations.txt has no val_{number}.JPEG") from None
    numbers = np.array(labels, np.int64)
    each = VAL_EACH if split == "val" else _each(path, numbers)
    verified += check_counts(where, numbers, CLASSES, (each * CLASSES, each))
    return Arrays(images, numbers, names, verified)


def _classes(path: Path, texts: dict[str, str]) -> tuple[list[str], tuple[str, ...]]:
    """The WordNet ids in their order, and a name of each."""
    if missing := [name for name in TEXTS if name not in texts]:
        raise DataError(f"{path} has no {' and no '.join(missing)}; get it again")
    wnids = texts["wnids.txt"].split()
    if len(set(wnids)) != CLASSES:
        raise DataError(f"{path}: wnids.txt has {len(set(wnids))} classes, not {CLASSES}")
    words = dict(line.partition("\t")[::2] for line in texts["words.txt"].splitlines())
    names = [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    return wnids, distinct(names, wnids)


def _annotations(path: Path, texts: dict[str, str], wnids: list[str]) -> dict[int, int]:
    """Number of the image in val -> its label."""
    lines = texts["val_annotations.txt"].splitlines()
    pairs = re.findall(r"^val_(\d+)\.JPEG\t(n\d{8})\b", "\n".join(lines), re.MULTILINE)
    return {int(number): _index(path, wnids, wnid) for number, wnid in pairs}


def _index(path: Path, wnids: list[str], wnid: str) -> int:
    try:
        return wnids.index(wnid)
    except ValueError:
        raise DataError(f"{path}: class {wnid} is not in wnids.txt; get it again") from None


def _each(path: Path, labels: np.ndarray) -> int:
    """How many images of each class this form has: of those it may have, the one it fits."""
    known = TRAIN_EACH.get(path.name, TRAIN_EACH["tiny-imagenet-200"])
    return next((each for each in known if each * CLASSES == len(labels)), known[0])


TINY_IMAGENET = Source(
    lambda root: ("train", "val"),
    _inputs,
    _read,
    Hub("zh-plus/tiny-imagenet", {"train": ("train", 100_000), "val": ("valid", 10_000)}),
)
