"""Images at the sizes that the papers use: box averages, zero padding and two published crops.

The first two take and return uint8 arrays (N, C, H, W) and are exact, so that a derived data set
is the same on every machine. The crops take and return PIL images of mode L or RGB; their filters
are Pillow's, whose widths grow with the reduction (they do not alias).
"""

from __future__ import annotations

__all__ = ["adm_crop", "box_average", "celeba_crop", "pad_to"]

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

CHUNK = 4 << 20  # pixels that box_average holds as wide integers at a time
ALIGNED = (178, 218)  # width and height of every image of the aligned CelebA
FACE = (15, 40, 15 + 148, 40 + 148)  # left, top, right, bottom


def box_average(images: np.ndarray, size: int) -> np.ndarray:
    """Means over equal square blocks, rounded to integers; uint8 (N, C, size, size).

    Halves go to the even neighbour: rounded up they would brighten a set by 1/8 of a grey level
    on average at blocks of 2 x 2, where one sum in four is a tie. All is integer arithmetic, so
    ties are exact.

    Args:
        images: uint8, (N, C, H, H), memory-mapped if large: read in chunks, in order, once.
        size: a divisor of H.

    Raises:
        ValueError: if ``images`` is of another kind, not square, or ``size`` does not divide H.
    """
    _check_array(images)
    n, channels, height, width = images.shape
    if height != width:
        raise ValueError(f"images of {height} x {width} are not square: crop or pad them first")
    if size < 1 or height % size:
        fits = ", ".join(str(s) for s in range(1, height + 1) if height % s == 0)
        raise ValueError(
            f"images of {height} x {height} have no box average of {size} x {size}: "
            f"choose a size out of {fits}"
        )
    block = height // size
    area = block * block
    out = np.empty((n, channels, size, size), np.uint8)
    step = max(1, CHUNK // max(1, channels * height * width))
    for at in range(0, n, step):
        chunk = images[at : at + step]
        blocks = chunk.reshape(len(chunk), channels, size, block, size, block)
        mean, rest = np.divmod(blocks.sum(axis=(3, 5), dtype=np.int64), area)
        mean += (2 * rest > area) | ((2 * rest == area) & (mean % 2 == 1))
        out[at : at + step] = mean
    return out


def pad_to(images: np.ndarray, size: int) -> np.ndarray:
    """The images centred on black; uint8 (N, C, size, size).

    Where the difference is odd, the extra row or column comes after: 28 to 32 adds two on each
    side, 28 to 31 one before and two after.

    Args:
        images: uint8, (N, C, H, W), H and W at most ``size``.

    Raises:
        ValueError: if ``images`` is of another kind or larger than ``size``.
    """
    _check_array(images)
    n, channels, height, width = images.shape
    if max(height, width) > size:
        raise ValueError(
            f"images of {height} x {width} do not fit into {size} x {size}: "
            f"pad them to {max(height, width)} or more"
        )
    top, left = (size - height) // 2, (size - width) // 2
    out = np.zeros((n, channels, size, size), np.uint8)
    out[:, :, top : top + height, left : left + width] = images
    return out


def celeba_crop(picture: Image.Image, size: int = 64) -> Image.Image:
    """The face of an aligned CelebA image: 148 x 148 from row 40, column 15, then bilinear.

    This is the crop that RealNVP introduced and that the flows after it name. It lies five rows
    below the centre (a centre crop would begin at row 35). The public code of EIW-Flow and of its
    backbone computes this crop, but then resizes the picture that it cropped from.

    Args:
        picture: 178 wide, 218 high, as published: elsewhere the place of the crop has no meaning.
        size: side of the result.

    Raises:
        ValueError: if ``picture`` has another size or mode, or ``size`` is not positive.
    """
    from PIL import Image

    _check_picture(picture, size)
    if picture.size != ALIGNED:
        raise ValueError(
            f"the CelebA crop wants an aligned image of {ALIGNED[0]} x {ALIGNED[1]} (width x "
            f"height), not of {picture.width} x {picture.height}: use img_align_celeba"
        )
    return picture.crop(FACE).resize((size, size), Image.Resampling.BILINEAR)


def adm_crop(picture: Image.Image, size: int) -> Image.Image:
    """The centre crop of ADM, the usual one for ImageNet and LSUN: size x size.

    Both sides are halved (and floored) with a box filter as long as the shorter is at least twice
    ``size``; a bicubic step brings the shorter to ``size``, the longer to the nearest integer
    (halves to even); the middle is cut out, nearer to the start where the surplus is odd.
    Smaller pictures are enlarged.

    Raises:
        ValueError: if ``picture`` is not of mode L or RGB, or ``size`` is not positive.
    """
    from PIL import Image

    _check_picture(picture, size)
    while min(picture.size) >= 2 * size:
        halves = (picture.width // 2, picture.height // 2)
        picture = picture.resize(halves, Image.Resampling.BOX)
    scale = size / min(picture.size)
    sides = (round(picture.width * scale), round(picture.height * scale))
    picture = picture.resize(sides, Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return picture.crop((left, top, left + size, top + size))


def _check_array(images: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            f"images must be uint8 of shape (N, C, H, W), not {images.dtype} of {images.shape}"
        )


def _check_picture(picture: Image.Image, size: int) -> None:
    if size < 1:
        raise ValueError(f"an image cannot have the size {size}: choose 1 or more")
    # Pillow ignores the filter for palettes and bilevel images: it takes the nearest pixel.
    if picture.mode not in ("L", "RGB"):
        raise ValueError(f"an image of mode {picture.mode} cannot be resized: convert it to RGB")
