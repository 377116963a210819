"""SimFlow under averaged weights: what is frozen, what marks and a checkpoint hold, a resume."""

from lightning_modules.callbacks import EMA, LastCheckpoint, Marks
from lightning_modules.flows import Noise
from lightning_modules.randomness import step_generator
from lightning_modules.simflow import VAE, SimFlow, TokenFlow

import lightning as L
import pytest
import torch
from jacobians import images, shaken

FROZEN = {"pretrain": 3, "train_encoder": False, "train_decoder": False, "standardise": True}
DECAY = 0.7


def batch(n=4):
    return images(n, 1, 8, 8).clamp(-1, 1).float(), torch.arange(n) % 3


class Repeat(torch.utils.data.IterableDataset):
    def __iter__(self):
        while True:
            yield batch()


class Watch(L.Callback):
    """The raw weights and the averages after each update."""

    def __init__(self, average):
        self.average, self.raw, self.averages = average, {}, {}

    def on_train_batch_end(self, trainer, pl_module, *_):
        for kept, now in ((self.raw, pl_module.state_dict()), (self.averages, None)):
            state = self.average.averaged() if now is None else now
            kept[trainer.global_step] = {k: v.clone() for k, v in state.items()}


def fit(root, updates, resume=None, shifts=False, **options):
    torch.manual_seed(0)
    flow = TokenFlow(2, (4, 4), 16, (1, 1), 8, classes=3, volume_preserving=shifts)
    module = SimFlow(VAE(1, 8, (1, 2), 1, 2), flow, lambda_nf=0.1, lr=1e-2, **options)
    average = EMA(DECAY)
    watch = Watch(average)
    trainer = L.Trainer(
        max_steps=updates, max_epochs=1, accelerator="cpu", logger=False, default_root_dir=root,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        callbacks=[average, watch, Marks([3, 5]), LastCheckpoint(1)],
    )  # fmt: skip
    data = torch.utils.data.DataLoader(Repeat(), batch_size=None, collate_fn=lambda b: b)
    module = shaken(module, 0.05).float().train()
    trainer.fit(module, data, data, ckpt_path=resume, weights_only=True)
    return module, watch


def vae(state):
    return {k: v for k, v in state.items() if k.startswith("vae.")}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0)


def test_a_frozen_vae_is_the_average_of_its_stage(tmp_path):
    """Else raw weights, which nobody measures, would stand beside averages of other arms."""
    module, watch = fit(tmp_path, 6, **FROZEN)
    left = vae(watch.averages[3])
    assert any(not torch.equal(v, watch.raw[3][k]) for k, v in left.items())
    for update in (4, 5, 6):
        assert_equal(vae(watch.raw[update]), left)
        assert_equal(vae(watch.averages[update]), left)
    for update in (3, 5, 6):
        saved = torch.load(Marks.path(tmp_path, update), weights_only=True)
        assert_equal(vae(saved), left)
    # it is what the flow sees: moments are of its own latents
    x, _ = batch()
    latents = module.vae.encode(x).sample(Noise(step_generator(0, "train", 3), rank=0, world=1))
    torch.testing.assert_close(module.shift, latents.mean((0, 2, 3), keepdim=True))
    saved = torch.load(Marks.path(tmp_path, 6), weights_only=True)
    assert saved["measured"]
    assert torch.equal(saved["shift"], module.shift)
    assert not torch.equal(saved["spread"], torch.ones_like(module.spread))


def test_end_to_end_everything_is_averaged_throughout(tmp_path):
    module, watch = fit(tmp_path, 5)
    average = watch.raw[1]
    for update in range(2, 6):
        raw = watch.raw[update]
        average = {k: DECAY * v + (1 - DECAY) * raw[k] for k, v in average.items()}
    weights = dict(module.named_parameters())
    for name in weights:
        torch.testing.assert_close(weights[name], average[name], rtol=1e-5, atol=1e-6)
    moved = {k for k in weights if not torch.allclose(average[k], watch.raw[5][k], atol=1e-5)}
    assert {k.split(".")[0] for k in moved} == {"vae", "flow"}


def test_the_variance_of_a_prior_is_that_of_the_last_update(tmp_path):
    module, watch = fit(tmp_path, 4, shifts=True)
    last = watch.raw[4]["flow.var"]
    assert torch.equal(watch.averages[4]["flow.var"], last)
    assert torch.equal(module.flow.var, last)
    assert not torch.equal(watch.raw[3]["flow.var"], last)


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, stop):
    """Stopped before, at and after the change of stage."""
    whole, _ = fit(tmp_path / "a", 6, **FROZEN)
    fit(tmp_path / "b", stop, **FROZEN)
    again, watch = fit(tmp_path / "b", 6, tmp_path / "b" / "last.ckpt", **FROZEN)
    assert set(watch.raw) == set(range(stop + 1, 7))
    assert_equal(whole.state_dict(), again.state_dict())
