"""W5: what a user waits for before anything happens, in fresh interpreters with a warm cache."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from reproduce.bench import Contender, Workload, in_turn
from reproduce.errors import RequestError

__all__ = ["command", "into", "startup"]

CONFIG = Path(__file__).parent / "neural_entropy" / "configs" / "neural_entropy.smoke.yaml"
TORCH, FIT, STOCK = "import torch", "entroflow fit", "LightningCLI fit"
AT_ONCE = {
    "entroflow --help": ["-m", "reproduce.cli", "--help"],
    "entroflow --version": ["-m", "reproduce.cli", "--version"],
    "reproduce --help": ["-m", "reproduce", "--help"],
    "reproduce list": ["-m", "reproduce", "list"],
}
# what one would write without the suite; without the guard `import lightning` can fail
SCRIPT = """\
from datamodules import _torchvision
from lightning.pytorch.cli import LightningCLI

LightningCLI()
"""


def startup() -> Workload:
    """Seconds to help, version, the list of targets, and the end of a training of two updates."""
    runs: dict[str, Callable[[], float]] = {
        **{name: partial(command, args) for name, args in AT_ONCE.items()},
        TORCH: partial(command, ["-c", "import torch"]),
        FIT: _ours,
        STOCK: _stock,
    }

    def prepare() -> None:
        print("w5: every command once, to warm the page cache", flush=True)
        for run in runs.values():
            run()

    return Workload(
        name="w5",
        title="start-up: help, and a training of two updates",
        unit="s",
        contenders=(
            *(Contender(name, TORCH, 0.3, 0.1, absolute=True) for name in AT_ONCE),
            Contender(TORCH, note="yardstick"),
            Contender(FIT, STOCK, 1.0, 0.75, note="saves checkpoint, weights, config, log"),
            Contender(STOCK, note="same model, data, trainer; saves config, log"),
        ),
        round=in_turn(runs),
        prepare=prepare,
    )


def command(args: list[str]) -> float:
    """Seconds that a fresh interpreter takes for ``args``, in an empty folder.

    Raises:
        RequestError: it failed; the end of what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *args],
            cwd=folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        took = time.perf_counter() - started
    if done.returncode:
        said = " ".join(done.stderr.split())[-300:]
        raise RequestError(f"python {' '.join(args)} exited with {done.returncode}: {said}")
    return took


def environment() -> dict[str, str]:
    """Ours, with this very package first on the path, wherever it is run from."""
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _ours() -> float:
    with tempfile.TemporaryDirectory() as folder:
        args = ["fit", "-c", str(CONFIG), "--trainer.max_steps=2", *into(folder)]
        return command(["-m", "reproduce.cli", *args])


def _stock() -> float:
    import yaml

    with tempfile.TemporaryDirectory() as folder:
        config = yaml.safe_load(CONFIG.read_text())
        script, own = Path(folder) / "train.py", Path(folder) / "train.yaml"
        script.write_text(SCRIPT)
        own.write_text(yaml.safe_dump(_without_ours(config)))
        args = ["fit", "-c", str(own), "--trainer.max_steps=2", *into(folder)]
        return command([str(script), *args])


def into(folder: str) -> list[str]:
    """Options that make `fit` write below ``folder``."""
    return [
        f"--trainer.default_root_dir={folder}",
        f"--trainer.logger.init_args.save_dir={folder}",
    ]


def _without_ours(config: dict[str, Any]) -> dict[str, Any]:
    """The keys that LightningCLI knows, with the seed where our CLI would have put it."""
    stock = {key: config[key] for key in ("seed_everything", "model", "data", "trainer")}
    for part in ("model", "data"):
        stock[part]["init_args"]["seed"] = config["seed_everything"]
    return stock
