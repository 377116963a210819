"""Neural Entropy (arXiv 2409.03817): how many nats a diffusion model's network stores."""

from lightning_modules.neural_entropy.module import NeuralEntropy
from lightning_modules.neural_entropy.networks import MLP
from lightning_modules.neural_entropy.processes import PROCESSES, SL, VP, Process

__all__ = ["NeuralEntropy", "MLP", "PROCESSES", "Process", "SL", "VP"]
