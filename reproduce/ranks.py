"""Cells that train on several devices: one process each, of which the first does the rest.

Lightning starts the other processes of one machine itself, by the command of the first and when
training begins. On a cluster all start at once, so the first tells the others what it found to do.
Measuring and recording are always the first one's alone.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reproduce.cells import Cell
from reproduce.errors import RequestError

__all__ = [
    "environment",
    "follow",
    "is_first",
    "require_gpu",
    "size",
    "tell",
    "wait",
    "wants_gpu",
]

_PATIENCE_S = 3600.0  # the first may have a cache to fill before it can train


def size(cell: Cell) -> tuple[int, int]:
    """Machines and devices of each that the cell's trainer asks for."""
    trainer = cell.config["trainer"]
    devices = trainer.get("devices", 1)
    if isinstance(devices, list):
        devices = len(devices)
    return int(trainer.get("num_nodes", 1)), devices if isinstance(devices, int) else 1


def wants_gpu(cell: Cell) -> bool:
    """Whether the cell's trainer asks for a CUDA device."""
    return cell.config["trainer"].get("accelerator") in ("gpu", "cuda")


def require_gpu(cells: Iterable[Cell], who: str) -> None:
    """Raise RequestError, beginning with ``who``, if a cell asks for a GPU and there is none."""
    if any(map(wants_gpu, cells)):
        import torch

        if not torch.cuda.is_available():
            raise RequestError(f"{who} a GPU and there is none: choose --tier small")


def is_first() -> bool:
    """Whether this process has rank 0 among those of its cell."""
    return os.environ.get("LOCAL_RANK", "0") == "0" and not (
        _started_together() and os.environ["SLURM_PROCID"] != "0"
    )


def _started_together() -> bool:
    return int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ


def environment() -> dict[str, Any]:
    """Trainer keys that keep Lightning from requeueing jobs: the launcher owns that."""
    if "SLURM_JOB_ID" not in os.environ:
        return {}
    place = "lightning.pytorch.plugins.environments."
    if _started_together():
        plugin = {"class_path": place + "SLURMEnvironment", "init_args": {"auto_requeue": False}}
    else:
        plugin = {"class_path": place + "LightningEnvironment"}
    return {"plugins": [plugin]}


def _message(folder: Path) -> Path:
    job, restarts = (os.environ.get(k, "0") for k in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"))
    return folder / f"ranks-{job}-{restarts}"


def tell(folder: Path, word: str) -> None:
    """Tell the other processes to ``train`` or to ``stop``; the first word counts."""
    if _started_together() and not (path := _message(folder)).exists():
        temporary = path.with_name(f".{path.name}")
        temporary.write_text(word)
        os.replace(temporary, path)


def wait(folder: Path) -> str:
    """What the first process tells the others.

    Raises:
        TimeoutError: it says nothing for an hour.
    """
    if not _started_together():  # Lightning started us, which it does when training begins
        return "train"
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        if (path := _message(folder)).exists():
            return path.read_text()
        time.sleep(0.2)
    raise TimeoutError(f"{folder.name}: the first process said nothing for an hour")


def follow(cell: Cell, folder: Path) -> None:
    """Take part in the cell's training as one of the other processes."""
    from reproduce.runner import fit_on, local_config
    from reproduce.training import build

    if wait(folder) == "train":
        cli = build(local_config(cell, folder))
        fit_on(cli.trainer, cli.model, cli.datamodule, folder)
