"""Images, labels and mixtures: the data of the three papers. Knows nothing of models.

The torchvision guard is imported first; the public names are imported on first use.
"""

from __future__ import annotations

__all__ = [
    "ClassImages",
    "DataError",
    "DensityImages",
    "GaussianMixture",
    "ImageSet",
    "MixtureData",
    "StoredImages",
    "load",
]

from importlib import import_module
from typing import TYPE_CHECKING, Any

from datamodules import _torchvision as _torchvision

if TYPE_CHECKING:
    from datamodules.class_images import ClassImages
    from datamodules.density_images import DensityImages
    from datamodules.mixtures import GaussianMixture, MixtureData
    from datamodules.sources import DataError, ImageSet, load
    from datamodules.stored_images import StoredImages

_HOME = {
    "ClassImages": "class_images",
    "DataError": "sources",
    "DensityImages": "density_images",
    "GaussianMixture": "mixtures",
    "ImageSet": "sources",
    "MixtureData": "mixtures",
    "StoredImages": "stored_images",
    "load": "sources",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
