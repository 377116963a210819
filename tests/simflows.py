"""Small SimFlows of every variant of section 5.3, and a batch for them."""

from lightning_modules.simflow import VAE, SimFlow, TokenFlow

import torch
from jacobians import images, shaken

__all__ = ["FIXED", "FROZEN", "LEARNABLE", "VARIANTS", "batch", "tiny"]

FIXED = {"posterior": "fixed", "fixed_std": 0.5}
LEARNABLE = {"posterior": "learnable"}
FROZEN = {"pretrain": 5, "train_encoder": False, "train_decoder": False, "standardise": True}
# the six rows of section 5.3: VAE, module
VARIANTS = {
    "frozen-vae/learnable": (LEARNABLE, FROZEN),
    "frozen-vae/fixed": (FIXED, FROZEN),
    "frozen-vae/fixed+LN": ({**FIXED, "encoder_norm": True}, FROZEN),
    "frozen-enc/noise": (
        LEARNABLE, {**FROZEN, "train_decoder": True, "standardise": False, "extra_noise": 0.5},
    ),
    "e2e/noise": (LEARNABLE, {"extra_noise": 0.5}),
    "e2e/fixed": (FIXED, {}),
}  # fmt: skip


def tiny(variant="e2e/fixed", **changes):
    vae, module = VARIANTS[variant]
    torch.manual_seed(0)
    encoder = VAE(1, 8, (1, 2), 1, 2, **{**vae, **changes.pop("vae", {})})
    flow = TokenFlow(2, (4, 4), width=16, layers=(1, 1), head_dim=8, classes=3)
    made = SimFlow(encoder, flow, **{"lambda_nf": 0.1, **module, **changes})
    return shaken(made, 0.05).train()


def batch(n=4):
    return images(n, 1, 8, 8).clamp(-1, 1), torch.arange(n) % 3
