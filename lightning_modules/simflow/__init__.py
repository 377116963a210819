"""SimFlow (arXiv 2512.04084): a VAE and an autoregressive flow trained end to end."""

from lightning_modules.simflow.alignment import Alignment
from lightning_modules.simflow.flow import TokenFlow
from lightning_modules.simflow.guidance import Guidance
from lightning_modules.simflow.losses import LPIPS, PatchDiscriminator
from lightning_modules.simflow.module import SimFlow
from lightning_modules.simflow.pixels import Pixels
from lightning_modules.simflow.sampling import Sampler
from lightning_modules.simflow.vae import VAE

__all__ = [
    "LPIPS",
    "VAE",
    "Alignment",
    "Guidance",
    "PatchDiscriminator",
    "Pixels",
    "Sampler",
    "SimFlow",
    "TokenFlow",
]
