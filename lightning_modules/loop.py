"""The training loop, without the hooks in which nothing happens.

Lightning passes some forty hooks an update, most of them empty, each through a profiler: about
0.7 ms on a CPU, half as much again as an update of a small network takes.
"""

from inspect import signature
from typing import Any

from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.loops.fetchers import _DataLoaderIterDataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

__all__ = ["StepLoop"]

_BATCH = ("on_train_batch_start", "on_train_batch_end")
_TRANSFER = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
_BACKWARD = (
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
_STEP = ("backward", "configure_gradient_clipping", "optimizer_step", "optimizer_zero_grad")


class StepLoop(_TrainingEpochLoop):
    """Lightning's loop over batches, short where an update is ``training_step`` and nothing else.

    That is on one device, in plain precision, without clipping or accumulation, for an optimizer
    that looks at the loss once (LBFGS does not), where module and data override none of an
    update's hooks and callbacks only ``on_train_batch_start`` and ``on_train_batch_end``. All else
    runs in Lightning's own loop. Weights, checkpoints, logs and what callbacks see are the same
    either way.
    """

    def on_run_start(self, data_fetcher: Any) -> None:
        super().on_run_start(data_fetcher)
        trainer = self.trainer
        self._starts, self._ends = (
            [getattr(c, hook) for c in trainer.callbacks if is_overridden(hook, c)]
            for hook in _BATCH
        )
        self._short = self._is_short(data_fetcher)
        if self._short:  # no words for the profiler either, at every batch
            data_fetcher._start_profiler = data_fetcher._stop_profiler = _nothing
        # nothing to validate, and no learning rate that waits for what is validated
        self._ends_at_once = self._short and not (
            trainer.enable_validation or trainer.lr_scheduler_configs
        )

    def _is_short(self, data_fetcher: Any) -> bool:
        trainer, module = self.trainer, self.trainer.lightning_module
        silent = (
            *((hook, module) for hook in (*_BATCH, *_TRANSFER, *_BACKWARD, *_STEP)),
            *((hook, trainer.datamodule) for hook in _TRANSFER),
            *((hook, callback) for hook in _BACKWARD for callback in trainer.callbacks),
        )
        return (
            type(trainer.strategy) is SingleDeviceStrategy
            and type(trainer.precision_plugin) is Precision
            and type(trainer.profiler) is PassThroughProfiler
            and not isinstance(data_fetcher, _DataLoaderIterDataFetcher)
            and module.automatic_optimization
            and len(trainer.optimizers) == 1
            and not _looks_twice(trainer.optimizers[0])
            and trainer.accumulate_grad_batches == 1
            and not trainer.gradient_clip_val
            and not any(is_overridden(hook, owner) for hook, owner in silent)
        )

    def advance(self, data_fetcher: Any) -> None:
        if self.restarting or not self._short:
            return super().advance(data_fetcher)
        trainer, module = self.trainer, self.trainer.lightning_module
        batches, logs = self.batch_progress, trainer._logger_connector
        batch, _, _ = next(data_fetcher)
        device = trainer.strategy.root_device
        if device.type != "cpu":
            batch = move_data_to_device(batch, device)
        batches.is_last_batch = data_fetcher.done
        batches.increment_ready()
        logs.on_batch_start(batch)
        for start in self._starts:
            _within(module, "on_train_batch_start")
            start(trainer, module, batch, self.batch_idx)
        batches.increment_started()
        outputs = self._update(module, trainer.optimizers[0], batch)
        batches.increment_processed()
        if trainer.lr_scheduler_configs:
            self.update_lr_schedulers("step", update_plateau_schedulers=False)
            if self._num_ready_batches_reached():
                self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        _within(module, "on_train_batch_end")
        for end in self._ends:
            end(trainer, module, outputs, batch, self.batch_idx)
        _within(module, None)
        if self._results:
            logs.on_batch_end()
        batches.increment_completed()
        if self._results:
            logs.update_train_step_metrics()

    def on_advance_end(self, data_fetcher: Any) -> None:
        trainer = self.trainer
        if self._ends_at_once and not trainer.should_stop and not trainer.received_sigterm:
            self._batches_that_stepped += 1
        else:
            super().on_advance_end(data_fetcher)

    def _update(self, module: Any, optimizer: Any, batch: Any) -> dict[str, Any]:
        """One step of the optimizer; what ``training_step`` returned, detached."""
        counts = self.automatic_optimization.optim_progress.optimizer
        counts.step.increment_ready()
        _within(module, "training_step")
        output = module.training_step(batch, self.batch_idx)
        loss = output if isinstance(output, Tensor) else output["loss"]
        counts.zero_grad.increment_ready()
        counts.zero_grad.increment_started()
        optimizer.zero_grad()
        counts.zero_grad.increment_completed()
        loss.backward()
        optimizer.step()
        counts.step.increment_completed()
        return {**({} if isinstance(output, Tensor) else output), "loss": loss.detach()}


def _within(module: Any, hook: str | None) -> None:
    """Say in which hook the module is, for ``self.log``; past a Module's own costly setter."""
    object.__setattr__(module, "_current_fx_name", hook)


def _looks_twice(optimizer: Any) -> bool:
    """Whether its step must be given a closure that computes the loss anew."""
    closure = signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def _nothing() -> None:
    pass
