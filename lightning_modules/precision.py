"""bf16 where it is asked for, and nowhere else."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["bf16"]


def bf16(like: Tensor, enabled: bool) -> AbstractContextManager:
    """bf16 autocast on the device of ``like``, or, not enabled, no autocast whatever is around.

    On the meta device, where nothing is computed, there is neither.
    """
    if like.is_meta:
        return nullcontext()
    return torch.autocast(like.device.type, torch.bfloat16, enabled=enabled)
