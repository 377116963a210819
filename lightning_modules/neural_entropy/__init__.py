"""Neural Entropy (arXiv 2409.03817): how many nats a diffusion model's network stores.

Images, in ten lines (digits are embedded; ``StoredImages("mnist")`` and ``ConvUNet()`` are the
paper's):

    from datamodules import StoredImages
    from lightning_modules.neural_entropy import AttentionUNet, NeuralEntropy, estimators, sampling
    import lightning, torch

    data = StoredImages("digits", n_per_class=100, n_eval=200)
    net = AttentionUNet(8, 1, 16, (1, 1), 1, attention_at=(4,), classes=0)
    model, noise = NeuralEntropy(net, process="vp", draws=1, lr=1e-3), torch.Generator()
    lightning.Trainer(max_steps=500, logger=False, enable_checkpointing=False).fit(model, data)
    model.eval()
    curves = estimators.entropy_in_strata(model.process, model, data.x_eval, 8, noise)
    print("S_NN", curves.integral("neural"), "nats an image, and its standard error")
    start = sampling.start(model.process, (16, 1, 8, 8), noise)
    images = sampling.probability_flow(model.process, model, start).x
"""

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
