"""The entropy-matching objective in its trainable, denoising form (arXiv 2409.03817)."""

from dataclasses import fields, replace
from typing import Any

from lightning_modules.neural_entropy.estimators import Window, entropy_curves, log_prob_bound
from lightning_modules.neural_entropy.processes import PROCESSES, Process
from lightning_modules.randomness import step_generator

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["NeuralEntropy"]

Batch = Tensor | tuple[Tensor, Tensor] | list[Tensor]  # points, or points and labels


def _points(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """The points of a batch, and their labels if it has any."""
    return (batch, None) if isinstance(batch, Tensor) else (batch[0], batch[1])


def _process(name: str, changes: dict[str, float]) -> Process:
    try:
        return replace(PROCESSES[name], **changes)
    except TypeError:
        known = ", ".join(f.name for f in fields(PROCESSES[name]))
        raise ValueError(
            f"unknown process_args {', '.join(changes)} for {name}: choose of {known}"
        ) from None


class NeuralEntropy(L.LightningModule):
    """A diffusion model whose network is zero where nothing needs to be remembered.

    The score is written ``score_eq + e_theta``: the network models only the departure from the
    quasi-invariant density, and ``S_NN = int sigma^2/2 E |e_theta|^2 ds`` is what it stores.

    Args:
        net: y (B, ...) and s (B,) or (1,), with labels (B,) if the data have them, to what is
            shaped like y: ``e_theta``, or the score.
        process: ``vp``, ``vpx`` or ``sl``.
        draws: (s, z) draws per sample in a batch (authors: 10 for mixtures, 1 for images).
        weighting: ``unit``, as in every released experiment, or ``ml`` (maximum likelihood).
        lr: Adam's constant learning rate.
        seed: of the noise; batches are the DataModule's.
        parametrisation: what the network's output is: ``em`` (entropy matching), ``e_theta``
            itself; ``sm`` (score matching), the score, of which ``e_theta`` is the part beyond
            ``score_eq``. The objective is the same.
        process_args: other values of the process's parameters (``kappa``, ``beta_max``, ...).

    Raises:
        ValueError: unknown process, parameter of a process, weighting or parametrisation.
    """

    def __init__(
        self,
        net: nn.Module,
        process: str = "vp",
        draws: int = 10,
        weighting: str = "unit",
        lr: float = 1e-4,
        seed: int = 0,
        parametrisation: str = "em",
        process_args: dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        if process not in PROCESSES:
            raise ValueError(f"unknown process {process!r}: choose one of {', '.join(PROCESSES)}")
        if weighting not in ("unit", "ml"):
            raise ValueError(f"unknown weighting {weighting!r}: choose unit or ml")
        if parametrisation not in ("em", "sm"):
            raise ValueError(f"unknown parametrisation {parametrisation!r}: choose em or sm")
        self.save_hyperparameters(ignore="net")
        self.net, self.process = net, _process(process, process_args or {})
        self.draws, self.weighting, self.lr, self.seed = draws, weighting, lr, seed
        self.parametrisation = parametrisation

    def forward(
        self, y: Tensor, s: Float[Tensor, " times"], labels: Tensor | None = None
    ) -> Tensor:
        """``e_theta(y, s)``, the network's departure from the quasi-invariant score."""
        out = self._net(y, s, labels)
        return out if self.parametrisation == "em" else out - self.process.score_eq(y)

    def score(self, y: Tensor, s: Float[Tensor, " times"], labels: Tensor | None = None) -> Tensor:
        """The surrogate score ``s_theta = score_eq + e_theta``."""
        out = self._net(y, s, labels)
        return self.process.score_eq(y) + out if self.parametrisation == "em" else out

    def _net(self, y: Tensor, s: Tensor, labels: Tensor | None) -> Tensor:
        return self.net(y, s) if labels is None else self.net(y, s, labels)

    def objective(
        self,
        x: Float[Tensor, "batch ..."],
        s: Float[Tensor, " batch"],
        z: Tensor,
        labels: Tensor | None = None,
    ) -> Float[Tensor, " batch"]:
        """``| std (score_eq(y) + e_theta(y, s)) + z |^2`` with ``y = mu x + std z``.

        A sum over dimensions, one number per row; ``ml`` multiplies it by ``sigma^2 / (2 std^2)``,
        which makes its mean L_EM plus a constant.
        """
        mu, std = (v.reshape(-1, *[1] * (x.dim() - 1)) for v in self._kernel(s))
        y = mu * x + std * z
        square = (std * self.score(y, s, labels) + z).flatten(1).square().sum(-1)
        if self.weighting == "ml":
            square = square * self.process.sigma2(s) / (2 * self.process.std(s).square())
        return square

    def _kernel(self, s: Tensor) -> tuple[Tensor, Tensor]:
        return self.process.mu(s), self.process.std(s)

    def _loss(self, batch: Batch, stream: str, step: int) -> Tensor:
        """Mean objective over the batch and ``draws`` times as many draws of (s, z)."""
        # noise is drawn for the batch of all devices and each takes its rows, so that two devices
        # follow one device with the doubled batch
        world, rank = self.trainer.world_size, self.trainer.global_rank
        x, labels = (
            v if v is None else v.repeat_interleave(self.draws, 0) for v in _points(batch)
        )
        rng = step_generator(self.seed, stream, step, x.device)
        share = slice(rank * len(x), (rank + 1) * len(x))
        u = torch.rand(world * len(x), generator=rng, device=x.device)[share]
        z = torch.randn(world * len(x), *x.shape[1:], generator=rng, device=x.device)[share]
        s = self.process.s_min + (self.process.s_max - self.process.s_min) * u
        return self.objective(x, s, z, labels).mean()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self._loss(batch, "train", self.global_step)
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:
            self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loss = self._loss(batch, "val", batch_idx)
        self.log("val/loss", loss, batch_size=len(_points(batch)[0]), sync_dist=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """S_NN of held-out points over the exact window, in nats."""
        x, labels = _points(batch)
        rng = step_generator(0, "test", batch_idx, x.device)
        curves = entropy_curves(self.process, self, x, Window.exact(), rng, labels=labels)
        stored = curves.integral("neural")[0]
        self.log("test/S_NN", stored, batch_size=len(x), sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, " batch"]:
        """A lower bound on the log-density of each point, in nats (1000 throws)."""
        x, labels = _points(batch)
        rng = step_generator(0, "predict", batch_idx, x.device)
        return log_prob_bound(self.process, self, x, 1000, rng, labels=labels)

    def on_train_start(self) -> None:
        # a checkpoint's optimizer brings its own learning rate; the one asked for wins
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.lr

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr, fused=True)
