"""Image files in folders named by their classes, in a folder or an archive.

    image_folder:<path>         <class>/<file> (split ``train`` alone) or <split>/<class>/<file>,
                                below any folders that all files share; classes sorted by name,
                                images by class and name; grey if all of the split are, else RGB.
                                Without ``:<path>`` the folder or archive is the ``root`` given.
    image_folder@<size>:<path>  the same, each image cut to a square by ADM's centre crop, and RGB
    imagenet_sample             1,000 photographs of 256 x 256, one of each class of ImageNet

A relative path counts from ``root`` if given, else from the working folder, else from
``$ENTROFLOW_DATA``.
"""

from __future__ import annotations

__all__ = ["IMAGENET_SAMPLE", "class_images", "distinct", "image_folder", "indices", "is_image"]

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from datamodules.archives import members
from datamodules.cache import Arrays, DataError
from datamodules.pixels import PixelFile, UnequalSizesError, decode
from datamodules.places import Inputs, MissingError, Source, check_counts, check_file, find

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SPLITS = ("train", "val", "valid", "validation", "test")
NAME = re.compile(r"image_folder(?:@(?P<size>[1-9]\d*))?(?::(?P<path>.+))?")
SAMPLE = ("imagenet-sample-256.tar", "imagenet-sample-256")
SAMPLE_COUNTS = (1_000, 1)
SAMPLE_SHA256 = {SAMPLE[0]: "9c8e61abc7d145cd7fda5086bde564386ff7c6691e7bc8177bc32ba55eb3d759"}


def is_image(name: str) -> bool:
    """Whether a file with this name is taken for an image."""
    return name.lower().endswith(SUFFIXES)


def class_images(
    where: str,
    path: Path,
    key: Callable[[str], tuple[str, str] | None],
    folder: Path,
    prepare: Callable[[Image.Image], Image.Image] | None = None,
    rgb: bool = True,
) -> tuple[list[str], list[str], np.ndarray]:
    """The images of a folder or archive by class: class and file of each, and the pixels, mapped.

    Args:
        where: what messages begin with.
        key: a member's name to its (class, file), by which images are sorted; None leaves it out.
        folder: of the cache entry.
        prepare, rgb: see ``pixels.decode``.

    Raises:
        DataError: if there are none, one is damaged, or they differ in size.
    """
    keys = []
    with PixelFile(folder, where) as pixels:
        for name, content in members(path):
            if is_image(name) and (found := key(name)):
                keys.append(found)
                pixels.append(decode(f"{path}: {name}", content(), prepare, rgb)[None])
        if not keys:
            raise DataError(f"{where}: {path} has no images in folders named by their classes")
        images = pixels.finish(sorted(range(len(keys)), key=keys.__getitem__))
    classes, files = zip(*sorted(keys), strict=True)
    return list(classes), list(files), images


def image_folder(source: str) -> Source | None:
    """The source that ``image_folder[@<size>][:<path>]`` names; None if ``source`` is another."""
    match = NAME.fullmatch(source)
    if match is None:
        return None
    size = int(match["size"]) if match["size"] else None

    def locate(split: str, root: Path | None) -> Inputs:
        # its content is what counts: the same images elsewhere are the same entry
        return (_place(match["path"], root), f"cut to {size}" if size else "as they are")

    return Source(
        lambda root: tuple(sorted(_layout(_place(match["path"], root)), key=_usual)),
        locate,
        partial(_read, source, size),
        entry="image_folder",
    )


def _place(path: str | None, root: Path | None) -> Path:
    data = os.environ.get("ENTROFLOW_DATA")
    above = [Path(data).expanduser()] if data else []
    if path is None:
        places = [root] if root else [folder / "image_folder" for folder in above]
    else:
        tail = Path(path).expanduser()
        places = [*([root / tail] if root else []), tail, *(folder / tail for folder in above)]
    for place in places:
        if place.exists():
            return place.resolve()
    looked = f"looked for {', '.join(map(str, places))}" if places else "it was not said where"
    raise MissingError(
        f"image_folder: no folder or archive of images; {looked}; "
        "name it: image_folder:<folder or archive>"
    )


def _usual(split: str) -> tuple[int, str]:
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split)


def _layout(path: Path) -> dict[str, dict[str, tuple[str, str]]]:
    """split -> member's name -> (class, file)."""
    names = [PurePosixPath(name) for name, _ in members(path) if is_image(name)]
    if not names:
        raise DataError(f"image_folder: {path} has no images")
    common = os.path.commonpath([name.parent for name in names])
    shared = PurePosixPath(common).parts
    depths = {len(name.parts) - len(shared): name for name in names}
    if len(depths) > 1:
        low, high = depths[min(depths)], depths[max(depths)]
        raise DataError(
            f"image_folder: {path} is neither <class>/<file> nor <split>/<class>/<file>: "
            f"it has {str(low)!r} and {str(high)!r}"
        )
    (depth,) = depths
    # a single class, or a single split, is a folder that all files share
    depth += max(0, min(2 - depth, len(shared)))
    if depth == 2 and len(names[0].parts) > 2 and names[0].parts[-3] in SPLITS:
        depth = 3
    if depth not in (2, 3):
        raise DataError(
            f"image_folder: {path} is neither <class>/<file> nor <split>/<class>/<file>: "
            f"it has {str(names[0])!r}"
        )
    splits: dict[str, dict[str, tuple[str, str]]] = {}
    for name in names:
        split = name.parts[-3] if depth == 3 else "train"
        splits.setdefault(split, {})[str(name)] = (name.parts[-2], name.name)
    return splits


def _read(source: str, size: int | None, split: str, inputs: Inputs, folder: Path) -> Arrays:
    path, where = Path(inputs[0]), f"{source} {split}"
    layout = _layout(path)
    if split not in layout:
        known = sorted(layout, key=_usual)
        more = f" and {len(known) - 8} more" if len(known) > 8 else ""
        raise DataError(f"{source} has no split {split!r}; it has {', '.join(known[:8])}{more}")
    prepare = partial(_adm, size=size) if size else None
    wanted = layout[split]
    try:
        labels, _, images = class_images(
            where, path, wanted.get, folder, prepare, rgb=size is not None
        )
    except UnequalSizesError as error:
        raise DataError(
            f"{error}: name it image_folder@<size>:<path> to cut each to <size> x <size>"
        ) from None
    # all splits have one list of classes, so that a label means the same in each
    classes = sorted({name for part in layout.values() for name, _ in part.values()})
    return Arrays(images, indices(labels, classes), tuple(classes))


def _adm(picture: Image.Image, size: int) -> Image.Image:
    from datamodules.resizing import adm_crop

    return adm_crop(picture, size)


def distinct(names: Sequence[str], wnids: Sequence[str]) -> tuple[str, ...]:
    """The names of classes, those that several share with the WordNet id: there are two cranes."""
    shared = {name for name, count in Counter(names).items() if count > 1}
    pairs = zip(names, wnids, strict=True)
    return tuple(f"{name} ({wnid})" if name in shared else name for name, wnid in pairs)


def indices(labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """The place of each label in ``classes``, int64."""
    index = {name: i for i, name in enumerate(classes)}
    return np.array([index[label] for label in labels], np.int64)


def _sample_read(split: str, inputs: Inputs, folder: Path) -> Arrays:
    path = Path(inputs[0])
    verified = check_file(path, SAMPLE_SHA256)

    def key(name: str) -> tuple[str, str]:
        return PurePosixPath(name).parent.name, PurePosixPath(name).stem

    wnids, stems, images = class_images(f"imagenet_sample {split}", path, key, folder)
    # <wnid>/<wnid>_<name of the class>.JPEG
    pairs = zip(wnids, stems, strict=True)
    names = {wnid: stem.removeprefix(f"{wnid}_").replace("_", " ") for wnid, stem in pairs}
    ids = sorted(names)
    labels = indices(wnids, ids)
    verified += check_counts("imagenet_sample train", labels, SAMPLE_COUNTS[0], SAMPLE_COUNTS)
    return Arrays(images, labels, distinct([names[wnid] for wnid in ids], ids), verified)


IMAGENET_SAMPLE = Source(
    lambda root: ("train",),
    lambda split, root: find(
        "imagenet_sample",
        [SAMPLE],
        root,
        get="put them into a folder named in ENTROFLOW_DATA",
    ),
    _sample_read,
)
