"""Images in [-1, 1] for the rulers, which read pixels in [0, 1]."""

from datamodules import ClassImages

import torch
from torch import Tensor

from reproduce.evaluators import ruler as rulers
from reproduce.evaluators.ruler import Ruler

__all__ = ["Ruler", "as_bytes", "ruler", "unit"]


def unit(images: Tensor) -> Tensor:
    """Images in [-1, 1] as pixels in [0, 1]."""
    return (images + 1) / 2


def ruler(data: ClassImages) -> Ruler:
    """That of a DataModule's images."""
    train, held_out = unit(data.x_train), unit(data.x_eval)
    return rulers.ruler(train, data.c_train, held_out, data.c_eval, data.fingerprint)


def as_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8, 1 at 255."""
    return ((images + 1) * 127.5).nan_to_num().round().clamp(0, 255).to(torch.uint8).cpu()
