"""Noise as a function of (seed, step) alone: a resumed or repeated run draws the same numbers."""

import numpy as np
import torch

__all__ = ["step_generator"]


def step_generator(
    seed: int, stream: str, step: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator on ``device`` for one step of one stream, independent of all others."""
    words = [seed, step, *stream.encode()]
    state = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
    if torch.device(device).type == "meta":  # which has no generators, and takes the CPU's
        device = "cpu"
    return torch.Generator(device).manual_seed(state >> 1)
