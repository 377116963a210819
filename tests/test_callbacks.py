"""What stands around every training: averages, marks, and one checkpoint under one name."""

import copy

from datamodules.batches import StepBatches
from lightning_modules.callbacks import EMA, LastCheckpoint, LossTrace, Marks

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader


class Tiny(L.LightningModule):
    """A linear layer and an integer permutation, which no average may touch."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.layer = torch.nn.Linear(12, 1)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(1, 12, generator=rng))
            self.layer.bias.zero_()
        self.register_buffer("perm", torch.randperm(12, generator=rng))
        self.register_buffer("seen", torch.tensor(0))

    def training_step(self, batch, batch_idx):
        self.seen += 1
        return (self.layer(batch[:, self.perm]) - 1).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)


class Points(L.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.x = torch.randn(40, 12, generator=torch.Generator().manual_seed(1))

    def train_dataloader(self):
        return DataLoader(StepBatches.of(self.trainer, (self.x,), 8, 0), batch_size=None)


class Watch(Callback):
    """The raw weights before the first update and after each."""

    def __init__(self) -> None:
        self.raw = []

    def on_train_start(self, trainer, pl_module):
        self.raw.append(copy.deepcopy(pl_module.state_dict()))

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.raw.append(copy.deepcopy(pl_module.state_dict()))


def fit(folder, steps: int, *callbacks, resume=None, **options) -> Tiny:
    model = Tiny()
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=1,
        default_root_dir=folder,
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(model, datamodule=Points(), ckpt_path=resume, weights_only=True)
    return model


def load(path):
    return torch.load(path, weights_only=True)


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0)


# --------------------------------------------------------------------------------------------- EMA
@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9999])
def test_ema_leaves_integer_buffers_alone(tmp_path, decay):
    ema, before = EMA(decay=decay), Tiny().perm
    model = fit(tmp_path, 30, ema)
    for perm in (ema.averaged()["perm"], model.perm):
        assert perm.dtype == torch.int64
        assert torch.equal(perm, before)
    assert ema.averaged()["seen"] == 30


def test_ema_is_the_recurrence_over_parameters(tmp_path):
    watch, ema = Watch(), EMA(decay=0.8)
    model = fit(tmp_path, 12, ema, watch)
    for name in ("layer.weight", "layer.bias"):
        average = watch.raw[1][name]  # the first update's weights start it
        for state in watch.raw[2:]:
            average = 0.8 * average + 0.2 * state[name]
        torch.testing.assert_close(ema.averaged()[name], average, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(average, watch.raw[-1][name], atol=1e-3)
        # after training the module itself holds the average
        assert torch.equal(model.state_dict()[name], ema.averaged()[name])


def test_ema_over_buffers_is_refused():
    with pytest.raises(ValueError, match="use_buffers false"):
        EMA(use_buffers=True)


def test_ema_that_never_averages_is_refused():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        EMA(update_every_n_steps=0)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_averages_follow_the_module_to_its_device(device):
    model, ema = Tiny(), EMA(device=device)
    ema.setup(None, model, "fit")
    model.to("meta")  # any other device
    ema.on_fit_start(None, model)
    assert all(v.is_meta == (device is None) for v in ema.averaged().values())


def test_ema_updates_every_n_steps(tmp_path):
    watch, ema = Watch(), EMA(decay=0.5, update_every_n_steps=4)
    fit(tmp_path, 8, ema, watch)
    # Lightning averages after the updates 1, 5, 9, ...
    average = watch.raw[1]["layer.weight"]
    average = 0.5 * average + 0.5 * watch.raw[5]["layer.weight"]
    torch.testing.assert_close(ema.averaged()["layer.weight"], average)


@pytest.mark.parametrize("stop", [20, 25])
def test_a_resumed_average_is_the_uninterrupted_one(tmp_path, stop):
    # 25 is no multiple of the checkpoint's period: the save at the end must hold raw weights too
    whole, first, second = EMA(decay=0.9), EMA(decay=0.9), EMA(decay=0.9)
    a = fit(tmp_path / "a", 40, whole, LastCheckpoint(10))
    fit(tmp_path / "b", stop, first, LastCheckpoint(10))
    b = fit(tmp_path / "b", 40, second, LastCheckpoint(10), resume=tmp_path / "b" / "last.ckpt")
    assert_equal(a.state_dict(), b.state_dict())
    assert_equal(whole.averaged(), second.averaged())


# ------------------------------------------------------------------------------------------- Marks
def names(folder) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_marks_are_the_weights_at_their_updates_and_at_the_last(tmp_path):
    watch = Watch()
    fit(tmp_path, 17, Marks([3, 10, 3, 99]), watch, LastCheckpoint())
    assert names(tmp_path) == {"weights-3.pt", "weights-10.pt", "weights-17.pt", "last.ckpt"}
    for update in (3, 10, 17):
        assert_equal(load(Marks.path(tmp_path, update)), watch.raw[update])


@pytest.mark.parametrize("marks_first", [False, True])
def test_marks_under_ema_are_averages_of_that_very_update(tmp_path, marks_first):
    watch, ema, marks = Watch(), EMA(decay=0.8), Marks([5])
    fit(tmp_path, 9, *((marks, ema) if marks_first else (ema, marks)), watch)
    average = watch.raw[1]["layer.weight"]
    for update in range(1, 10):
        if update > 1:
            average = 0.8 * average + 0.2 * watch.raw[update]["layer.weight"]
        if update in (5, 9):
            saved = load(Marks.path(tmp_path, update))
            torch.testing.assert_close(saved["layer.weight"], average, rtol=1e-5, atol=1e-6)
            assert torch.equal(saved["perm"], Tiny().perm)
    assert_equal(load(Marks.path(tmp_path, 9)), ema.averaged())


def test_marks_do_not_change_training(tmp_path):
    a = fit(tmp_path / "a", 10)
    b = fit(tmp_path / "b", 10, Marks(range(1, 11)), LastCheckpoint(1))
    assert_equal(a.state_dict(), b.state_dict())


def test_marks_before_the_first_update_are_refused():
    with pytest.raises(ValueError, match="positive, not 0"):
        Marks([0, 5])


# ------------------------------------------------------------------------------------- checkpoints
def test_a_checkpoint_has_one_name_whatever_is_fitted_again(tmp_path):
    for steps in (7, 7, 13):
        fit(tmp_path, steps, LastCheckpoint(3))
        assert names(tmp_path) == {"last.ckpt"}
        assert load(tmp_path / "last.ckpt")["global_step"] == steps
    fit(tmp_path, 20, LastCheckpoint(3), resume=tmp_path / "last.ckpt")
    assert names(tmp_path) == {"last.ckpt"}
    assert load(tmp_path / "last.ckpt")["global_step"] == 20


def test_a_checkpoint_holds_the_last_weights_in_plain_types(tmp_path):
    model = fit(tmp_path, 8, LastCheckpoint(5), LossTrace())
    assert_equal(load(tmp_path / "last.ckpt")["state_dict"], model.state_dict())


class Saves(Callback):
    def __init__(self) -> None:
        self.at = []

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        self.at.append(trainer.global_step)


@pytest.mark.parametrize(("steps", "at"), [(10, [4, 8, 10]), (8, [4, 8]), (3, [3])])
def test_checkpoints_come_every_so_often_and_once_at_the_end(tmp_path, steps, at):
    saves = Saves()
    fit(tmp_path, steps, LastCheckpoint(4), saves)
    assert saves.at == at


def test_a_checkpoint_never_is_refused():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        LastCheckpoint(0)


def test_a_trial_run_leaves_nothing(tmp_path):
    fit(tmp_path, 8, LastCheckpoint(1), Marks([1]), fast_dev_run=2)
    assert names(tmp_path) == set()
