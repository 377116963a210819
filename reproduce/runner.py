"""Runs one cell: train (or resume), measure at the marks, publish the record."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning_modules  # noqa: F401  (the torchvision guard, before lightning)
from lightning_modules.callbacks import (
    LossTrace,
    Marks,
    load_whole,
    loss_now,
    save_weights,
)
from lightning_modules.stopping import Stopped, asked

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from reproduce.cells import Cell, override
from reproduce.provenance import provenance
from reproduce.ranks import environment, tell
from reproduce.records import CorruptRecord, Store, blank, complete, fail, fit_key, missing
from reproduce.target import Evaluator, named

__all__ = ["fit_on", "local_config", "run_cell"]

Send = Callable[[dict[str, Any]], None]


def run_cell(
    cell: Cell, evaluators: tuple[Evaluator, ...], targets: list[str], store: Store, send: Send
) -> str:
    """Make the cell's record hold all ``evaluators``; return its status, ``done`` or ``failed``.

    What is there is kept: finished evaluators, weights at marks, the checkpoint of a half-trained
    cell. A failure is a record too. ``send`` gets progress as small dicts.

    Raises:
        Busy: another process runs this cell.
        Stopped: this process was asked to stop; what was done is saved.
    """
    folder = store.run_dir(cell)
    with ExitStack() as ending:
        ending.callback(tell, folder, "stop")  # unless the other ranks were told to train
        ending.enter_context(store.lock(cell))
        try:
            old = store.read(cell)
        except CorruptRecord as error:
            send({"note": f"{error}: set aside as {store.set_aside(cell).name}, cell runs again"})
            old = None
        if old is not None and complete(cell, old, evaluators):  # another run was faster
            if not set(targets) <= set(old["targets"]):
                store.write(cell, old | {"targets": sorted({*targets, *old["targets"]})})
            return "done"
        record = blank(cell, old, targets)
        spent, started, written = record["wall_s"], time.perf_counter(), time.perf_counter()

        def keep() -> None:
            record["wall_s"] = spent + time.perf_counter() - started
            store.write(cell, record | provenance(record["device"]))

        try:
            for _ in _fill(cell, record, evaluators, store, send):
                if time.perf_counter() - written > 60:  # what is measured outlives a kill
                    keep()
                    written = time.perf_counter()
        except Stopped:
            if fit_key(cell.paper) in record["metrics"]:
                keep()
            raise
        except Exception as error:
            record |= fail(record, f"{type(error).__name__}: {' '.join(str(error).split())}")
            send({"note": f"{cell.name} failed: {record['error']}"})
            if os.environ.get("ENTROFLOW_TRACEBACK"):
                raise
        keep()
        return record["status"]


def _fill(
    cell: Cell,
    record: dict[str, Any],
    evaluators: tuple[Evaluator, ...],
    store: Store,
    send: Send,
) -> Iterator[str]:
    """Fill a record stage by stage: the fit, then each evaluator."""
    from reproduce.training import build

    folder = store.run_dir(cell)
    cli = build(local_config(cell, folder))
    model, data, trainer = cli.model, cli.datamodule, cli.trainer
    trace = next(c for c in trainer.callbacks if isinstance(c, LossTrace))
    trainer.callbacks.insert(trainer.callbacks.index(trace) + 1, Progress(send))
    record["params"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    record["data_sha256"] = data.fingerprint

    fit = fit_key(cell.paper)
    _drop_other_versions(folder, fit)
    paths = [Marks.path(folder, update) for update in cell.updates]
    if fit not in record["metrics"] or any(_load(path) is None for path in paths):
        last = cell.updates[-1]
        if last:
            _train(trainer, model, data, folder, cell.updates, send)
        else:
            save_weights(model.state_dict(), paths[-1])
        curve = trace.curve(last)
        tail = curve["loss"][-max(1, len(curve["loss"]) // 10) :]
        record["metrics"] = {fit: {"train_loss": sum(tail) / len(tail)} if tail else {}}
        record["curves"] = {fit: curve}
    record["status"] = "done"  # as far as it goes: who lacks an evaluator counts as missing
    record.pop("error", None)
    yield "fit"

    device = trainer.strategy.root_device
    model.to(device)  # Lightning takes it back to the CPU after training
    record["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    for evaluator in missing(record, evaluators):
        send({"stage": evaluator.name})
        metrics, curves, arrays = _measure(evaluator, cell, model, data, folder, send)
        if arrays:
            store.write_arrays(cell, {f"{evaluator.name}.{k}": v for k, v in arrays.items()})
        for part, values in (("metrics", metrics), ("curves", curves)):
            kept = {k: v for k, v in record[part].items() if k.split("@")[0] != evaluator.name}
            record[part] = {**kept, evaluator.key: values}
        yield evaluator.name


def _drop_other_versions(folder: Path, fit: str) -> None:
    """Remove the weights and the checkpoint of another version of the model."""
    stamp = folder / "version"
    if (stamp.read_text() if stamp.exists() else "fit@1") != fit:
        for path in (folder / "last.ckpt", *folder.glob("weights-*.pt")):
            path.unlink(missing_ok=True)
    stamp.write_text(fit)


def local_config(cell: Cell, folder: Path) -> dict[str, Any]:
    """The config with its paths set to the cell's folder, and nothing logged or drawn."""
    config = override(dict(cell.config), {"trainer.default_root_dir": str(folder)})
    config["trainer"] |= {"logger": False, "enable_progress_bar": False, "limit_val_batches": 0}
    config["trainer"] |= environment()
    config["trainer"]["log_every_n_steps"] = config["trainer"]["max_steps"] + 1  # to nobody
    return config


def _train(
    trainer: Any, model: Any, data: Any, folder: Path, marks: list[int], send: Send
) -> None:
    """Fit from ``last.ckpt`` where it can be used; what cannot is set aside, never trusted."""
    checkpoint = folder / "last.ckpt"
    if checkpoint.exists():
        why, saved = "", _load(checkpoint)
        if not isinstance(saved, dict) or "global_step" not in saved:
            why = "is unreadable"
        elif any(
            u <= saved["global_step"] and _load(Marks.path(folder, u)) is None for u in marks
        ):
            why = "lies beyond a mark whose weights are gone"
        if why:
            os.replace(checkpoint, checkpoint.with_suffix(".ckpt.corrupt"))
            send({"note": f"{folder.name}: last.ckpt {why}: set aside, training starts again"})
    tell(folder, "train")
    fit_on(trainer, model, data, folder)
    if asked() is not None:
        raise Stopped(f"after update {trainer.global_step}")


def fit_on(trainer: Any, model: Any, data: Any, folder: Path) -> None:
    """Fit from ``last.ckpt``, where there is one; on every device of the cell alike."""
    checkpoint = folder / "last.ckpt"
    resume = str(checkpoint) if checkpoint.exists() else None
    trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)


def _load(path: Path) -> Any:
    """What a file of ours holds, or None where it is absent or damaged."""
    try:
        return load_whole(path)
    except (FileNotFoundError, ValueError):
        return None


def _measure(
    evaluator: Evaluator, cell: Cell, model: Any, data: Any, folder: Path, send: Send
) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    """Call an evaluator at its marks: numbers and arrays at the last, all else along the marks."""
    call = named(evaluator.call)
    model.eval()
    rows, updates = [], evaluator.updates(cell)
    for update in updates:
        model.load_state_dict(load_whole(Marks.path(folder, update)))
        rows.append(call(model, data))
        send({"measured": update})
        for key, value in rows[-1].items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ArithmeticError(f"{evaluator.name}: {key} is {value} at update {update}")
    scalars = {k: v for k, v in rows[-1].items() if isinstance(v, int | float)}
    arrays = {k: v for k, v in rows[-1].items() if isinstance(v, np.ndarray)}
    curves = {k: [row[k] for row in rows] for k in rows[-1] if k not in arrays}
    return scalars, {"updates": updates, **curves}, arrays


class Progress(Callback):
    """Tells the parent where the training stands, twice a second at most."""

    def __init__(self, send: Send) -> None:
        self.send, self.sent = send, 0.0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        now = time.monotonic()
        if now - self.sent > 0.5:
            self.sent = now
            step, of = trainer.global_step, trainer.max_steps
            self.send({"step": step, "of": of, "loss": loss_now(trainer)})
