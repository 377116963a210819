"""Images in [-1, 1] for the rulers, which read pixels in [0, 1]."""

from datamodules import ClassImages

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from reproduce.evaluators import ruler as rulers
from reproduce.evaluators.ruler import Ruler

__all__ = ["Ruler", "ruler", "tiles", "unit"]

_BYTES = 62_000  # of one evaluator's pictures: a record's arrays may take 200 kB together


def unit(images: Tensor) -> Tensor:
    """Images in [-1, 1] as pixels in [0, 1]."""
    return (images + 1) / 2


def ruler(data: ClassImages) -> Ruler:
    """That of a DataModule's images."""
    train, held_out = unit(data.x_train), unit(data.x_eval)
    return rulers.ruler(train, data.c_train, held_out, data.c_eval, data.fingerprint)


def tiles(images: Tensor) -> np.ndarray:
    """Images as uint8, -1 and less at 0, 1 and more at 255, NaN at 0.

    Their sides are halved until a record has room for them.
    """
    images = images.clamp(-1, 1)
    while images.numel() > _BYTES:
        images = F.avg_pool2d(images, 2)
    return ((images + 1) * 127.5).nan_to_num().round().to(torch.uint8).cpu().numpy()
