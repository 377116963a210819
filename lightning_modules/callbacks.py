"""What every training run needs: one checkpoint, weights at marks, EMA, a loss that is watched.

They act between steps and hold nothing that a resumed run would miss.
"""

import math
import os
import pickle
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_modules import stopping

import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = [
    "Diverged",
    "EMA",
    "LastCheckpoint",
    "LossTrace",
    "Marks",
    "PlainProgress",
    "StopBetweenSteps",
    "load_whole",
    "loss_now",
    "save_weights",
]


class Diverged(RuntimeError):
    """The training loss is no longer a number."""


class StopBetweenSteps(Callback):
    """Ends the fit, on all devices alike, after the step in which a signal asked to stop."""

    def on_train_start(self, trainer, pl_module) -> None:
        # Lightning has just put its own handlers in front, which would leave the checkpoint out;
        # when the fit ends it puts those from before back
        stopping.wait_for_the_step()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        stop = stopping.asked() is not None
        if trainer.world_size > 1:  # one device has heard it; all must stop after the same step
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            trainer.should_stop = True


class LastCheckpoint(Checkpoint):
    """``last.ckpt`` in the trainer's root folder: the only name a checkpoint ever has.

    Saved atomically every ``every`` updates and at the last. Being a Checkpoint, it runs after the
    other callbacks, so LossTrace has looked first.
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
        step = trainer.global_step
        if (step not in self.updates and step != trainer.max_steps) or trainer.fast_dev_run:
            return
        averages = [c.averaged() for c in trainer.callbacks if isinstance(c, EMA)]
        # the strategy's own, for it may have to gather the weights from all devices
        weights = averages[0] if averages else trainer.strategy.lightning_module_state_dict()
        if trainer.is_global_zero:
            save_weights(weights, self.path(trainer.default_root_dir, step))


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Save a state dict under a temporary name, then rename: a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save(weights, temporary)
    os.replace(temporary, path)


def load_whole(path: str | Path) -> Any:
    """What ``torch.save`` wrote into a file, on the CPU, plain values only.

    Raises:
        ValueError: the file is damaged (torch alone would not see flipped bytes in a tensor), or
            holds something that would run code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if not bad:
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError:
        bad = "it holds more than tensors and plain values"
    except Exception as error:  # any damage looks different: zip, pickle, key and runtime errors
        bad = error
    raise ValueError(f"{path} is damaged: {bad}")


class EMA(WeightAveraging):
    """Exponential moving average of the parameters; buffers are taken as they are.

    Averaging buffers turns a permutation or a counter into something that is neither. All
    parameters are averaged in one call, and one that stands still is its own average exactly.

    Args:
        decay: share that an update leaves of the average.
        update_every_n_steps: updates between two, counted from the first.
        device: where the averages are kept; with the model, without one.
        use_buffers: refused if true.
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
        if update_every_n_steps < 1:
            raise ValueError(
                f"update_every_n_steps must be at least 1, not {update_every_n_steps}"
            )
        super().__init__(
            device=device, use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay)
        )
        self.update_every_n_steps = update_every_n_steps

    def on_fit_start(self, trainer, pl_module) -> None:
        # Lightning made the averages before the module was moved to its device. Their count stays
        # behind: it is looked at in every update, for which the host would wait
        if self._device is None:
            self._average_model.module.to(pl_module.device)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and step_idx % self.update_every_n_steps == 0

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
            print(
                f"update {step}/{trainer.max_steps}, loss {loss_now(trainer):.4g}, "
                f"{left:.0f} s left",
                flush=True,
            )

    def on_train_end(self, trainer, pl_module) -> None:
        if trainer.is_global_zero:
            took = time.monotonic() - self._begun
            print(f"trained {trainer.global_step} updates in {took:.0f} s", flush=True)


class LossTrace(Callback):
    """The training loss over all devices: looked at, and averaged over equal parts of the run.

    A resume goes on exactly. A diverged run is stopped before its weights reach a checkpoint.

    Args:
        bins: parts of a run.
        every: updates between two looks on an accelerator, where a look waits for the device.

    Attributes:
        loss: of the last update, the mean over devices.

    Raises:
        Diverged: the loss is NaN or infinite.
    """

    def __init__(self, bins: int = 50, every: int = 50) -> None:
        self.bins, self.every, self.counts = bins, every, [0] * bins
        self.sums: list[Any] = [0.0] * bins
        self.loss: Any = math.nan

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        loss = (outputs["loss"] if isinstance(outputs, dict) else outputs).detach()
        if trainer.world_size > 1:  # so that all devices see one loss, and stop at one update
            loss = trainer.strategy.reduce(loss, reduce_op="mean")
        step = trainer.global_step
        if loss.device.type == "cpu":
            loss = float(loss)
        self.loss = loss
        looked = isinstance(loss, float) or step % self.every == 0
        if looked and not math.isfinite(float(loss)):
            lr = trainer.optimizers[0].param_groups[0]["lr"]
            raise Diverged(
                f"the loss is {float(loss)} at update {step}: lower model.init_args.lr "
                f"(now {lr:g}) or look for non-finite data"
            )
        at = min((step - 1) * self.bins // max(trainer.max_steps, 1), self.bins - 1)
        self.sums[at] += loss if isinstance(loss, float) else loss.double()
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


def loss_now(trainer: Any) -> float:
    """The loss of the trainer's last update, over all devices; NaN where nobody traces it."""
    traces = (c.loss for c in trainer.callbacks if isinstance(c, LossTrace))
    return float(next(traces, math.nan))
