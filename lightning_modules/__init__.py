"""The models: one folder per paper, each a thin LightningModule over its mathematics."""

from datamodules import _torchvision  # noqa: F401  (the guard; must come before lightning)

__all__ = ["NeuralEntropy"]


def __getattr__(name: str):
    # Lightning takes seconds to import: only those who ask for a model pay.
    if name == "NeuralEntropy":
        from lightning_modules.neural_entropy import NeuralEntropy

        return NeuralEntropy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
