"""Fields with known answers, for the tests of the estimators."""

from datamodules.mixtures import GaussianMixture
from lightning_modules.neural_entropy.processes import PROCESSES

import torch


def exact(process: str, name: str, scale: float = 1.0):
    """``scale`` times e*, the exact departure of the score from equilibrium."""
    mixture, flow = GaussianMixture.named(name), PROCESSES[process]

    def field(y, s):
        law = mixture.diffused(flow.mu(s.double()), flow.std(s.double()))
        return (scale * (law.score(y.double()) - flow.score_eq(y.double()))).to(y.dtype)

    return field


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
