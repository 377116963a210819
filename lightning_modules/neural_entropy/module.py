"""The entropy-matching objective in its trainable, denoising form (arXiv 2409.03817)."""

from typing import Any

from lightning_modules.neural_entropy.estimators import Window, entropy_curves, log_prob_bound
from lightning_modules.neural_entropy.processes import PROCESSES
from lightning_modules.randomness import step_generator

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["NeuralEntropy"]


class NeuralEntropy(L.LightningModule):
    """A diffusion model whose network is zero where nothing needs to be remembered.

    The score is written ``score_eq + e_theta``: the network models only the departure from the
    quasi-invariant density, and ``S_NN = int sigma^2/2 E |e_theta|^2 ds`` is what it stores.

    Args:
        net: ``e_theta(y, s)`` with y (B, ...) and s (B,), shaped like y.
        process: ``vp``, ``vpx`` or ``sl``.
        draws: (s, z) draws per sample in a batch (authors: 10 for mixtures, 1 for images).
        weighting: ``unit``, as in every released experiment, or ``ml`` (maximum likelihood).
        lr: Adam's constant learning rate.
        seed: of the noise; batches are the DataModule's.

    Raises:
        ValueError: unknown process or weighting.
    """

    def __init__(
        self,
        net: nn.Module,
        process: str = "vp",
        draws: int = 10,
        weighting: str = "unit",
        lr: float = 1e-4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if process not in PROCESSES:
            raise ValueError(f"unknown process {process!r}: choose one of {', '.join(PROCESSES)}")
        if weighting not in ("unit", "ml"):
            raise ValueError(f"unknown weighting {weighting!r}: choose unit or ml")
        self.save_hyperparameters(ignore="net")
        self.net, self.process = net, PROCESSES[process]
        self.draws, self.weighting, self.lr, self.seed = draws, weighting, lr, seed

    def forward(self, y: Tensor, s: Float[Tensor, " batch"]) -> Tensor:
        """``e_theta(y, s)``."""
        return self.net(y, s)

    def objective(
        self, x: Float[Tensor, "batch ..."], s: Float[Tensor, " batch"], z: Tensor
    ) -> Float[Tensor, " batch"]:
        """``| std (score_eq(y) + e_theta(y, s)) + z |^2`` with ``y = mu x + std z``.

        A sum over dimensions, one number per row; ``ml`` multiplies it by ``sigma^2 / (2 std^2)``,
        which makes its mean L_EM plus a constant.
        """
        mu, std = (v.reshape(-1, *[1] * (x.dim() - 1)) for v in self._kernel(s))
        y = mu * x + std * z
        square = (std * (self.process.score_eq(y) + self(y, s)) + z).flatten(1).square().sum(-1)
        if self.weighting == "ml":
            square = square * self.process.sigma2(s) / (2 * self.process.std(s).square())
        return square

    def _kernel(self, s: Tensor) -> tuple[Tensor, Tensor]:
        return self.process.mu(s), self.process.std(s)

    def _loss(self, x: Tensor, stream: str, step: int) -> Tensor:
        """Mean objective over the batch and ``draws`` times as many draws of (s, z)."""
        # noise is drawn for the batch of all devices and each takes its rows, so that two devices
        # follow one device with the doubled batch
        world, rank = self.trainer.world_size, self.trainer.global_rank
        x = x.repeat_interleave(self.draws, 0)
        rng = step_generator(self.seed, stream, step, x.device)
        share = slice(rank * len(x), (rank + 1) * len(x))
        u = torch.rand(world * len(x), generator=rng, device=x.device)[share]
        z = torch.randn(world * len(x), *x.shape[1:], generator=rng, device=x.device)[share]
        s = self.process.s_min + (self.process.s_max - self.process.s_min) * u
        return self.objective(x, s, z).mean()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self._loss(batch, "train", self.global_step)
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:
            self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        loss = self._loss(batch, "val", batch_idx)
        self.log("val/loss", loss, batch_size=len(batch), sync_dist=True)

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """S_NN of held-out points over the exact window, in nats."""
        rng = step_generator(0, "test", batch_idx, batch.device)
        curves = entropy_curves(self.process, self, batch, Window.exact(), rng)
        stored = curves.integral("neural")[0]
        self.log("test/S_NN", stored, batch_size=len(batch), sync_dist=True)

    def predict_step(self, batch: Tensor, batch_idx: int) -> Float[Tensor, " batch"]:
        """A lower bound on the log-density of each point, in nats (1000 throws)."""
        rng = step_generator(0, "predict", batch_idx, batch.device)
        return log_prob_bound(self.process, self, batch, 1000, rng)

    def on_train_start(self) -> None:
        # a checkpoint's optimizer brings its own learning rate; the one asked for wins
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.lr

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr, fused=True)
