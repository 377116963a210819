"""Maximum likelihood of a multi-scale flow with a learned channel order (arXiv 2407.04958)."""

import math
from typing import Any

from lightning_modules.eiw_flow.dequantize import Uniform
from lightning_modules.eiw_flow.multiscale import MultiScale
from lightning_modules.flows import Noise, bits_per_dim
from lightning_modules.randomness import step_generator

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["EIWFlow"]

Images = Float[Tensor, "batch C H W"]
PerSample = Float[Tensor, " batch"]

OPTIMIZERS = {"adamax": torch.optim.Adamax, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}


class EIWFlow(L.LightningModule):
    """A flow over integer images, and the order in which it factors their channels out.

    The objective (equations 11 and 12; units of the authors' code) is

        bits per dimension of the batch + lam * sum over splits of KL(P || Q) in nats.

    Both terms come from one pass; the code makes two, with different noise.

    Args:
        net: the backbone, with its channel orders.
        dequantizer: from integers to reals; 8-bit uniform noise without.
        lam: weight of the orders' terms (authors: 1e-3).
        optimizer: ``adamax`` (authors), ``adam`` or ``sgd``.
        lr: learning rate after ``warmup`` updates, reached linearly (authors: 1e-3, 5000).
        decay: factor on the learning rate at every ``decay_every`` updates after the warm-up. The
            code intends 0.9975 an epoch, but its warm-up overwrites it: 1 is what happens there.
        fine_tune_after: updates after which the learning rate is ``fine_tune_lr`` (authors: 2e-5
            after 400 epochs).
        freeze_order_after: updates after which the channel orders stay (authors: never).
        seed: of the noise; batches are the DataModule's.

    Raises:
        ValueError: an unknown optimizer.
    """

    def __init__(
        self,
        net: MultiScale,
        dequantizer: nn.Module | None = None,
        lam: float = 1e-3,
        optimizer: str = "adamax",
        lr: float = 1e-3,
        warmup: int = 0,
        decay: float = 1.0,
        decay_every: int = 1,
        fine_tune_after: int | None = None,
        fine_tune_lr: float = 2e-5,
        freeze_order_after: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {optimizer!r}: choose {', '.join(OPTIMIZERS)}")
        self.save_hyperparameters(ignore=("net", "dequantizer"))
        self.net, self.dequantizer = net, dequantizer or Uniform()
        self.lam, self.optimizer, self.lr = lam, optimizer, lr
        self.warmup, self.decay, self.decay_every = warmup, decay, decay_every
        self.fine_tune_after, self.fine_tune_lr = fine_tune_after, fine_tune_lr
        self.freeze_order_after, self.seed = freeze_order_after, seed

    # --------------------------------------------------------------------- likelihood
    def terms(self, x: Images, noise: Noise) -> tuple[PerSample, list[Tensor]]:
        """One-sample lower bound on ``log P(x)`` in nats, and the orders' terms per split."""
        y, cost = self.dequantizer(x, noise)
        encoding = self.net(y, noise)
        return cost + encoding.log_prob, encoding.kl

    def forward(self, x: Images, noise: Noise | None = None) -> PerSample:
        """One-sample lower bound on the log-probability of integer images, in nats."""
        return self.terms(x, noise or Noise())[0]

    @torch.no_grad()
    def importance_bound(
        self, x: Images, draws: int, noise: Noise, rows: int = 1024
    ) -> tuple[PerSample, PerSample]:
        """``log 1/K sum_k P(x, u_k) / q(u_k | x)`` and the mean of its K logarithms, in nats.

        The first is a lower bound that rises with K, the second the one-sample bound's estimate.

        Args:
            draws: K.
            rows: as many (image, draw) pairs pass through the flow at a time.
        """
        best, total = x.new_full((len(x),), -math.inf), x.new_zeros(len(x))
        at_once = max(1, rows // len(x))
        for done in range(0, draws, at_once):
            k = min(at_once, draws - done)
            each = self(x.repeat(k, 1, 1, 1), noise).reshape(k, len(x))
            best = torch.logaddexp(best, each.logsumexp(0))
            total = total + each.sum(0)
        return best - math.log(draws), total / draws

    @torch.no_grad()
    def sample(self, n: int, noise: Noise, temperature: float = 1.0) -> Images:
        """``n`` integer images."""
        return self.dequantizer.inverse(self.net.sample(n, noise, temperature))

    # ----------------------------------------------------------------------- training
    def _noise(self, stream: str, step: int) -> Noise:
        rng = step_generator(self.seed if stream == "train" else 0, stream, step, self.device)
        return Noise(rng, rank=self.trainer.global_rank, world=self.trainer.world_size)

    def training_step(self, x: Images, batch_idx: int) -> Tensor:
        step = self.global_step
        self._set_learning_rate(step)
        frozen = self.freeze_order_after is not None and step >= self.freeze_order_after
        for order in self.net.orders:
            order.frozen = frozen
        log_prob, kl = self.terms(x, self._noise("train", step))
        bpd = bits_per_dim(log_prob.mean(), self.net.dims)
        loss = bpd + self.lam * sum(kl)
        if (step + 1) % self.trainer.log_every_n_steps == 0:
            self.log("train/loss", loss, prog_bar=True, sync_dist=True)
            self.log_dict({"train/bpd": bpd, "train/kl": sum(kl)}, sync_dist=True)
        return loss

    def _set_learning_rate(self, step: int) -> None:
        """A function of the update alone, so that a resumed run needs no scheduler's state."""
        if self.fine_tune_after is not None and step >= self.fine_tune_after:
            lr = self.fine_tune_lr
        else:
            decays = max(0, step - self.warmup) // self.decay_every
            lr = self.lr * min(1.0, (step + 1) / max(1, self.warmup)) * self.decay**decays
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr

    def validation_step(self, x: Images, batch_idx: int) -> None:
        # the same noise at every validation and in every arm
        log_prob = self(x, self._noise("val", batch_idx))
        bpd = bits_per_dim(log_prob.mean(), self.net.dims)
        self.log("val/bpd", bpd, batch_size=len(x), sync_dist=True)

    def test_step(self, x: Images, batch_idx: int) -> None:
        bound, _ = self.importance_bound(x, 16, self._noise("test", batch_idx))
        bpd = bits_per_dim(bound.mean(), self.net.dims)
        self.log("test/bpd_iw16", bpd, batch_size=len(x), sync_dist=True)

    def predict_step(self, x: Images, batch_idx: int) -> PerSample:
        """A lower bound on the log-probability of each image, in nats (16 draws)."""
        return self.importance_bound(x, 16, self._noise("predict", batch_idx))[0]

    def configure_optimizers(self) -> Any:
        fused = {"fused": True} if self.optimizer == "adam" else {}
        return OPTIMIZERS[self.optimizer](self.parameters(), lr=self.lr, **fused)
