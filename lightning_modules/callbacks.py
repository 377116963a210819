"""What every training run needs: one checkpoint, weights at marks, EMA, a guard against NaN.

They act between steps and hold nothing that a resumed run would miss.
"""

import math
import os
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EMAWeightAveraging
from torch import Tensor

__all__ = [
    "Diverged",
    "EMA",
    "FiniteLoss",
    "LastCheckpoint",
    "LossTrace",
    "Marks",
    "PlainProgress",
    "load_whole",
    "loss_of",
    "save_weights",
]


class Diverged(RuntimeError):
    """The training loss is no longer a number."""


def loss_of(outputs: Any) -> Tensor:
    """The loss of a training step, which Lightning hands on bare or in a dict."""
    return (outputs["loss"] if isinstance(outputs, dict) else outputs).detach()


class FiniteLoss(Callback):
    """Stops a diverged run before its weights reach a checkpoint.

    Args:
        every: updates between two looks on an accelerator, where a look waits for the device.

    Raises:
        Diverged: the loss is NaN or infinite.
    """

    def __init__(self, every: int = 50) -> None:
        self.every = every

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        loss = loss_of(outputs)
        if loss.device.type != "cpu" and trainer.global_step % self.every:
            return
        if not math.isfinite(float(loss)):
            lr = trainer.optimizers[0].param_groups[0]["lr"]
            raise Diverged(
                f"the loss is {float(loss)} at update {trainer.global_step}: lower "
                f"model.init_args.lr (now {lr:g}) or look for non-finite data"
            )


class LastCheckpoint(Checkpoint):
    """``last.ckpt`` in the trainer's root folder: the only name a checkpoint ever has.

    Saved atomically every ``every`` updates and at the last. Being a Checkpoint, it runs after the
    other callbacks, so FiniteLoss has looked first.
    """

    def __init__(self, every: int = 1000) -> None:
        if every < 1:
            raise ValueError(f"checkpoint.every must be at least 1, not {every}")
        self.every = every

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        # not in on_train_end: by then the one endless epoch counts as done, which a resumed run
        # would take for its own end, and EMA has put its averages into the model
        step = trainer.global_step
        last = step == trainer.max_steps or trainer.should_stop
        if (last or step % self.every == 0) and not trainer.fast_dev_run:
            # Lightning's own save passes through the system's temporary folder; from another file
            # system that is a copy, which a kill would leave half done
            path = Path(trainer.default_root_dir) / "last.ckpt"
            temporary = path.with_name(".last.ckpt")
            trainer.save_checkpoint(temporary)
            if trainer.is_global_zero:
                os.replace(temporary, path)


class Marks(Checkpoint):
    """Weights at given updates and at the last, as ``weights-<update>.pt`` beside the checkpoint.

    Evaluators read them after training, so what is measured never changes how a model trains, and
    a new measure needs no new run. With EMA they are the averaged weights: as a Checkpoint, this
    callback runs after EMA has seen the update, wherever it stands in a list.
    """

    def __init__(self, updates: Sequence[int] = ()) -> None:
        self.updates = sorted(set(updates))
        if any(u < 1 for u in self.updates):
            raise ValueError(f"marks.updates must be positive, not {self.updates[0]}")

    @staticmethod
    def path(root: str | Path, update: int) -> Path:
        return Path(root) / f"weights-{update}.pt"

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        due = trainer.global_step in (*self.updates, trainer.max_steps)
        if due and trainer.is_global_zero and not trainer.fast_dev_run:
            averages = [c.averaged() for c in trainer.callbacks if isinstance(c, EMA)]
            weights = averages[0] if averages else pl_module.state_dict()
            save_weights(weights, self.path(trainer.default_root_dir, trainer.global_step))


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Save a state dict under a temporary name, then rename: a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save(weights, temporary)
    os.replace(temporary, path)


def load_whole(path: str | Path) -> Any:
    """What ``torch.save`` wrote into a file, on the CPU, plain values only.

    Raises:
        ValueError: the file is damaged; torch alone would not see flipped bytes in a tensor.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if not bad:
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # any damage looks different: zip, pickle, key and runtime errors
        bad = error
    raise ValueError(f"{path} is damaged: {bad}")


class EMA(EMAWeightAveraging):
    """Exponential moving average of the parameters; buffers are taken as they are.

    Averaging buffers turns a permutation or a counter into something that is neither.
    """

    def __init__(
        self,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        device: str | None = None,
        use_buffers: bool = False,
    ) -> None:
        if use_buffers:
            raise ValueError("EMA over buffers corrupts integer buffers: leave use_buffers false")
        super().__init__(
            device=device,
            use_buffers=False,
            decay=decay,
            update_every_n_steps=update_every_n_steps,
        )

    def averaged(self) -> dict[str, Tensor]:
        """State dict with averaged parameters."""
        assert self._average_model is not None
        return self._average_model.module.state_dict()


class PlainProgress(Callback):
    """Where training stands, a line every ``every_s`` seconds: for logs, which have no bars."""

    def __init__(self, every_s: float = 10.0) -> None:
        self.every_s = every_s
        self._begun = self._said = 0.0
        self._first = 0

    def on_train_start(self, trainer, pl_module) -> None:
        self._begun = self._said = time.monotonic()
        self._first = trainer.global_step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        now, step = time.monotonic(), trainer.global_step
        if trainer.is_global_zero and now - self._said >= self.every_s:
            self._said = now
            left = (now - self._begun) / (step - self._first) * (trainer.max_steps - step)
            loss = float(loss_of(outputs))
            print(
                f"update {step}/{trainer.max_steps}, loss {loss:.4g}, {left:.0f} s left",
                flush=True,
            )

    def on_train_end(self, trainer, pl_module) -> None:
        if trainer.is_global_zero:
            took = time.monotonic() - self._begun
            print(f"trained {trainer.global_step} updates in {took:.0f} s", flush=True)


class LossTrace(Callback):
    """The training loss averaged over ``bins`` equal parts of a run; a resume goes on exactly."""

    def __init__(self, bins: int = 50) -> None:
        self.bins, self.counts = bins, [0] * bins
        self.sums: list[Any] = [0.0] * bins

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        at = min((trainer.global_step - 1) * self.bins // max(trainer.max_steps, 1), self.bins - 1)
        # a tensor until it is asked for, so that an accelerator is not waited for
        self.sums[at] = self.sums[at] + loss_of(outputs).double()
        self.counts[at] += 1

    def curve(self, max_steps: int) -> dict[str, list[Any]]:
        """``{"updates": last update of each part, "loss": mean over it}``."""
        kept = [i for i, n in enumerate(self.counts) if n]
        return {
            "updates": [math.ceil((i + 1) * max_steps / self.bins) for i in kept],
            "loss": [float(self.sums[i]) / self.counts[i] for i in kept],
        }

    def state_dict(self) -> dict[str, Any]:
        return {"sums": [float(v) for v in self.sums], "counts": list(self.counts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.sums, self.counts = state_dict["sums"], state_dict["counts"]
