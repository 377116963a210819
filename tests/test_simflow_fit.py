"""SimFlow under a Trainer: what each stage moves, what an update is, what is clipped."""

from lightning_modules.simflow import PatchDiscriminator

import lightning as L
import torch
from simflows import batch, tiny


class Repeat(torch.utils.data.IterableDataset):
    def __iter__(self):
        x, y = batch()
        while True:
            yield x.float(), y


def fit(module, updates, root, *callbacks):
    trainer = L.Trainer(
        max_steps=updates, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=root,
        log_every_n_steps=1, limit_val_batches=0, callbacks=list(callbacks),
    )  # fmt: skip
    data = torch.utils.data.DataLoader(Repeat(), batch_size=None, collate_fn=lambda b: b)
    trainer.fit(module.float(), data, data)
    return trainer


def moved(module, before):
    """Which of its parts differ from a state dict."""
    now = module.state_dict()
    return {k.split(".")[0] for k in now if k in before and not torch.equal(now[k], before[k])}


def state(module):
    return {k: v.clone() for k, v in module.float().state_dict().items()}


class TestFit:
    def test_the_first_stage_moves_the_vae_alone(self, tmp_path):
        module = tiny("frozen-vae/fixed", pretrain=2)
        before = state(module)
        fit(module, 2, tmp_path)
        assert moved(module, before) == {"vae"}

    def test_the_second_stage_leaves_a_frozen_one_as_it_is(self, tmp_path):
        module = tiny("frozen-vae/fixed", pretrain=0)
        before = state(module)
        fit(module, 2, tmp_path)
        assert moved(module, before) == {"flow", "shift", "spread", "measured"}

    def test_with_a_discriminator_an_update_counts_once(self, tmp_path):
        module = tiny(discriminator=PatchDiscriminator(1, 4, layers=1), discriminator_after=2)
        before = state(module)
        assert fit(module, 2, tmp_path).global_step == 2
        assert moved(module, before) == {"vae", "flow"}
        trainer = fit(module, 4, tmp_path)
        assert trainer.global_step == 4
        assert moved(module, before) == {"vae", "flow", "discriminator"}
        assert trainer.callback_metrics["train/adversarial"].item() != 0

    def test_the_norm_of_gradients_is_clipped(self, tmp_path):
        norms = []

        class Look(L.Callback):
            def on_before_zero_grad(self, trainer, pl_module, optimizer):
                found = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
                norms.extend([torch.stack(found).norm().item()] if found else [])

        fit(tiny(clip=1e-3), 2, tmp_path, Look())
        assert norms
        assert all(norm <= 1.001e-3 for norm in norms)
