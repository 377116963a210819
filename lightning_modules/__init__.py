"""The models: one folder per paper, each a thin LightningModule over its mathematics."""

from importlib import import_module

from datamodules import _torchvision  # noqa: F401  (the guard; must come before lightning)

__all__ = ["EIWFlow", "NeuralEntropy", "SimFlow"]


_HOME = {"EIWFlow": "eiw_flow", "NeuralEntropy": "neural_entropy", "SimFlow": "simflow"}


def __getattr__(name: str):
    # Lightning takes seconds to import: only those who ask for a model pay.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
