"""A script for two processes that train together, and for the one they must equal.

``python two_devices.py DEVICES FOLDER``: every process leaves its state in ``FOLDER/<rank>.pt``.
"""

import sys
from pathlib import Path

from datamodules.batches import StepBatches
from lightning_modules.callbacks import EMA, LastCheckpoint, LossTrace, Marks
from lightning_modules.distributed import moments

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader

STEPS, ROWS, DIM = 12, 16, 6


class ActNorm(nn.Module):
    """Initialised by the first batch, once; the flag is part of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.loc, self.scale = nn.Parameter(torch.zeros(DIM)), nn.Parameter(torch.ones(DIM))
        self.register_buffer("ready", torch.tensor(0))

    def forward(self, x):
        if not self.ready:
            mean, variance = moments(x, (0,))
            self.loc.data.copy_(mean[0])
            self.scale.data.copy_((variance[0] + 1e-6).rsqrt())
            self.ready.fill_(1)
        return (x - self.loc) * self.scale


class Model(L.LightningModule):
    def __init__(self, rank: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(7 + rank)  # each device would like it its own way
        self.norm, self.net = ActNorm(), nn.Linear(DIM, 1)
        for p in self.net.parameters():
            nn.init.normal_(p, generator=rng)
        self.register_buffer("order", torch.randperm(DIM, generator=rng))
        self.register_buffer("seen", torch.tensor(0))

    def training_step(self, batch, batch_idx):
        self.seen += 1
        return (self.net(self.norm(batch)[:, self.order]) - 1).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)


class Data(L.LightningDataModule):
    def train_dataloader(self):
        x = 3 + 2 * torch.randn(5 * ROWS, DIM, generator=torch.Generator().manual_seed(1))
        return DataLoader(StepBatches.of(self.trainer, (x,), ROWS, 0), batch_size=None)


def main(devices: int, folder: Path) -> None:
    trace, ema = LossTrace(bins=STEPS), EMA(decay=0.9)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_steps=STEPS,
        max_epochs=1,
        default_root_dir=folder,
        callbacks=[trace, ema, Marks([4]), LastCheckpoint(5)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Model(trainer.global_rank)
    trainer.fit(model, datamodule=Data())
    mine = {"state": model.state_dict(), "loss": trace.curve(STEPS)["loss"]}
    torch.save(mine, folder / f"{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
