"""The short loop does what Lightning's does, to the last counter, or leaves it to Lightning."""

from datamodules.batches import StepBatches
from lightning_modules.callbacks import EMA, LastCheckpoint
from lightning_modules.loop import StepLoop

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from torch.utils.data import DataLoader, IterableDataset


class Tiny(L.LightningModule):
    """A linear layer; ``returns`` a bare loss or a dict, and may have a schedule and a log."""

    def __init__(self, returns="loss", schedule=None, log_every=None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(12, 1)
        self.returns, self.schedule, self.log_every = returns, schedule, log_every
        with torch.no_grad():
            self.layer.weight.fill_(0.1)
            self.layer.bias.zero_()

    def training_step(self, batch, batch_idx):
        loss = (self.layer(batch) - 1).square().mean() + 0.01 * batch_idx
        if self.log_every and (batch_idx + 1) % self.log_every == 0:
            self.log("loss", loss, on_epoch=True, prog_bar=True)
        return loss if self.returns == "loss" else {"loss": loss, "row": batch[0]}

    def validation_step(self, batch, batch_idx):
        self.log("val", (self.layer(batch) - 1).square().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        if self.schedule is None:
            return optimizer
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        return [optimizer], [{"scheduler": scheduler, "interval": self.schedule}]


class Points(L.LightningDataModule):
    def train_dataloader(self):
        x = torch.randn(40, 12, generator=torch.Generator().manual_seed(1))
        return DataLoader(x, batch_size=8)

    val_dataloader = train_dataloader


class Endless(Points):
    def train_dataloader(self):
        x = torch.randn(40, 12, generator=torch.Generator().manual_seed(1))
        return DataLoader(StepBatches.of(self.trainer, (x,), 8, 0), batch_size=None)


class Unsized(Points):
    """Five batches whose number nobody can ask for."""

    class Rows(IterableDataset):
        def __iter__(self):
            return iter(torch.randn(5, 8, 12, generator=torch.Generator().manual_seed(1)))

    def train_dataloader(self):
        return DataLoader(self.Rows(), batch_size=None)


class Watch(Callback):
    """What a callback sees: the hook, where training stands, the loss."""

    def __init__(self) -> None:
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(("start", trainer.global_step, batch_idx, float(batch.sum())))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        assert not outputs["loss"].requires_grad
        now = {k: v.sum().item() for k, v in outputs.items()}
        self.seen.append(("end", trainer.global_step, batch_idx, now, pl_module._current_fx_name))


class Lines(Logger):
    name, version = "lines", 0

    def __init__(self) -> None:
        super().__init__()
        self.lines = []

    def log_metrics(self, metrics, step=None):
        self.lines.append((step, metrics))

    def log_hyperparams(self, *args, **kwargs): ...


def fit(folder, short, *callbacks, model=None, data=None, resume=None, **options):
    model, log = model or Tiny(), Lines()
    options = {"max_epochs": 3, "log_every_n_steps": 4, "val_check_interval": 3} | options
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[*callbacks, LastCheckpoint(2)],
        logger=log,
        enable_progress_bar=False,
        enable_model_summary=False,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        **options,
    )
    if short:
        trainer.fit_loop.epoch_loop = StepLoop(trainer, max_steps=trainer.max_steps)
    trainer.fit(model, datamodule=data or Points(), ckpt_path=resume, weights_only=True)
    return model, log.lines, {k: float(v) for k, v in trainer.callback_metrics.items()}


@pytest.fixture
def stock_updates(monkeypatch):
    """Counts the updates that went through Lightning's own loop."""
    counted, stock = [], _TrainingEpochLoop.advance

    def advance(self, fetcher):
        counted.append(self.trainer.global_step)
        return stock(self, fetcher)

    monkeypatch.setattr(_TrainingEpochLoop, "advance", advance)
    return counted


def checkpoint(folder):
    """All that ``last.ckpt`` holds, tensors as lists."""

    def plain(node):
        if isinstance(node, dict):
            return {k: plain(v) for k, v in node.items()}
        if isinstance(node, list | tuple):
            return [plain(v) for v in node]
        return node.tolist() if isinstance(node, torch.Tensor) else node

    return plain(torch.load(folder / "last.ckpt", weights_only=True))


VARIANTS = {
    "plain": {},
    "dict": {"returns": "dict"},
    "log-each": {"log_every": 1},
    "log-some": {"log_every": 3},
    "schedule-step": {"schedule": "step"},
    "schedule-epoch": {"schedule": "epoch"},
    "unsized": {"schedule": "epoch"},
    "unvalidated": {"log_every": 2},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_short_update_is_lightnings_own(variant, tmp_path, stock_updates):
    seen, runs = [], []
    for name in ("stock", "short"):
        watch, ema = Watch(), EMA(0.9)
        stock_updates.clear()
        model = Tiny(**VARIANTS[variant])
        data = Unsized() if variant == "unsized" else Points()
        options = {"model": model, "data": data}
        if variant == "unvalidated":
            options["limit_val_batches"] = 0
        runs.append(fit(tmp_path / name, name == "short", ema, watch, **options))
        seen.append(watch.seen)
    assert stock_updates == []
    assert len(seen[0]) == 30
    assert seen[0] == seen[1]
    torch.testing.assert_close(*(m.state_dict() for m, _, _ in runs), rtol=0, atol=0)
    assert runs[0][1:] == runs[1][1:]
    assert len(runs[0][1]) > 0
    assert ("loss_epoch" in runs[0][2]) == bool(model.log_every)
    assert ("val" in runs[0][2]) == (variant != "unvalidated")
    assert checkpoint(tmp_path / "stock") == checkpoint(tmp_path / "short")


@pytest.mark.parametrize("stop", [3, 5, 7])
def test_a_resumed_run_is_the_uninterrupted_one(stop, tmp_path):
    def run(name, short, steps, resume=None):
        options = {"max_steps": steps, "max_epochs": 1, "data": Endless()}
        return fit(tmp_path / name, short, resume=resume, **options)[0]

    whole, stock = run("a", True, 13), run("b", False, 13)
    run("c", True, stop)
    again = run("c", True, 13, tmp_path / "c" / "last.ckpt")
    for other in (again, stock):
        torch.testing.assert_close(whole.state_dict(), other.state_dict(), rtol=0, atol=0)


class Hooked(Tiny):
    def on_before_optimizer_step(self, optimizer): ...


class Clips(Tiny):
    def configure_gradient_clipping(self, optimizer, *args, **kwargs): ...


class Manual(Tiny):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.optimizers().zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        self.optimizers().step()


class LooksTwice(Tiny):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.05, max_iter=2)


class Moves(Points):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch + 1


class Looks(Callback):
    def on_after_backward(self, trainer, pl_module): ...


@pytest.mark.parametrize(
    "asked",
    [
        {"gradient_clip_val": 1.0},
        {"accumulate_grad_batches": 2},
        {"precision": "bf16-mixed"},
        {"profiler": "simple"},
        {"model": Hooked()},
        {"model": Clips()},
        {"model": Manual()},
        {"model": LooksTwice()},
        {"data": Moves()},
        {"callbacks": [Looks()]},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_lightnings_own_loop_runs_where_more_is_asked_for(asked, tmp_path, stock_updates):
    asked = dict(asked)
    fit(tmp_path, True, *asked.pop("callbacks", ()), max_epochs=1, **asked)
    assert len(stock_updates) == 5
