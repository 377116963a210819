"""FID, KID, precision and recall on Inception features, by torch-fidelity.

The weights are the user's: a file that the environment names, or that `make weights` has put into
the cache. Nothing is downloaded here.
"""

from pathlib import Path

from datamodules import DataError
from lightning_modules.weights import located, sha256_of

import torch
from torch import Tensor

__all__ = ["FILE", "SHA256", "VARIABLE", "fidelity", "weights"]

VARIABLE = "ENTROFLOW_INCEPTION"
# as torch-fidelity publishes them; its loader unpickles freely, so that the file must be that one
FILE = "weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_EXTRACTOR = "inception-v3-compat"


def weights() -> Path:
    """The file of Inception weights.

    Raises:
        DataError: neither environment nor cache has one, it is not there, or it is another file.
    """
    path = located(VARIABLE, FILE)
    if path is None:
        raise DataError(
            f"FID needs torch-fidelity's {FILE}, which is not downloaded: set {VARIABLE} to its "
            "path, or `make weights NAME=inception`, and run the target again"
        )
    try:
        found = sha256_of(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; set {VARIABLE} to {FILE}") from None
    if found != SHA256:
        raise DataError(
            f"{path} is another file than torch-fidelity's {FILE}: its sha256 is {found[:8]}..., "
            f"not {SHA256[:8]}...; set {VARIABLE} to that one"
        )
    return path


class _Images(torch.utils.data.Dataset):
    """uint8 RGB images, one at a time; grey ones are shown in three equal channels."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]


def fidelity(
    made: Tensor, train: Tensor, held_out: Tensor, cuda: bool = False
) -> dict[str, float]:
    """How close generated images come to real ones; uint8 (n, 1 or 3, H, W), all three.

    Returns:
        ``FID_train``, ``KID``, ``precision`` and ``recall`` against training images, ``FID_test``
        against held-out ones.

    Raises:
        DataError: as ``weights``.
    """
    options = {
        "feature_extractor": _EXTRACTOR,
        "feature_extractor_weights_path": str(weights()),
        "cuda": cuda,
        "cache": False,
        "verbose": False,
        "save_cpu_ram": True,  # no worker processes, and distances in parts
    }
    from torch_fidelity import calculate_metrics  # slow to import

    near = calculate_metrics(
        input1=_Images(made),
        input2=_Images(train),
        fid=True,
        kid=True,
        prc=True,
        kid_subset_size=min(1000, len(made), len(train)),
        **options,
    )
    far = calculate_metrics(input1=_Images(made), input2=_Images(held_out), fid=True, **options)
    return {
        "FID_train": near["frechet_inception_distance"],
        "FID_test": far["frechet_inception_distance"],
        "KID": near["kernel_inception_distance_mean"],
        "precision": near["precision"],
        "recall": near["recall"],
    }
