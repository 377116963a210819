"""Neural Entropy (arXiv 2409.03817): how many nats a diffusion model's network stores."""

from lightning_modules.neural_entropy.attention_unet import AttentionUNet
from lightning_modules.neural_entropy.module import NeuralEntropy
from lightning_modules.neural_entropy.networks import MLP
from lightning_modules.neural_entropy.processes import PROCESSES, SL, VP, Process
from lightning_modules.neural_entropy.unet import ConvUNet

__all__ = [
    "NeuralEntropy",
    "AttentionUNet",
    "ConvUNet",
    "MLP",
    "PROCESSES",
    "Process",
    "SL",
    "VP",
]
