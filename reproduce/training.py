"""LightningCLI for every paper: the same YAML that the suite's cells resolve to.

Three things differ from the stock class. Explicit arguments win over a checkpoint's stored ones;
`marks` and `checkpoint` are top-level keys, so no overlay can lose them with a callback list; and
`seed_everything` reaches the model's noise and the data's order.
"""

import logging
import os
import re
import signal
import sys
import warnings
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import lightning_modules  # noqa: F401  (the torchvision guard, before lightning)
from lightning_modules.callbacks import (
    Diverged,
    LastCheckpoint,
    LossTrace,
    Marks,
    PlainProgress,
    StopBetweenSteps,
    load_whole,
    save_weights,
)
from lightning_modules.loop import StepLoop
from lightning_modules.stopping import Stopped, asked, listen

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from reproduce.errors import RequestError

__all__ = ["EntroflowCLI", "build", "one_line", "run_command"]


class EntroflowCLI(LightningCLI):
    """`entroflow fit|validate|test|predict`, and the parser behind a cell's config."""

    def __init__(self, args: Any = None, run: bool = True, **kwargs: Any) -> None:
        quiet()
        self._given = args
        super().__init__(
            args=args,
            run=run,
            auto_configure_optimizers=False,
            trainer_defaults={"callbacks": [LossTrace(), StopBetweenSteps()]},
            parser_kwargs={"exit_on_error": False},
            save_config_kwargs={"overwrite": True},
            **kwargs,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Marks, "marks")
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")
        parser.link_arguments("seed_everything", "model.init_args.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        trainer = self._get(self.config_init, "trainer")
        if trainer.get("enable_progress_bar") is not False and not sys.stdout.isatty():
            # bars are for terminals; a log gets a line now and then
            kwargs["enable_progress_bar"] = False
            kwargs["callbacks"] = [*(trainer.get("callbacks") or []), PlainProgress()]
        made = super().instantiate_trainer(**kwargs)
        fit = made.fit_loop
        fit.epoch_loop = StepLoop(made, min_steps=fit.min_steps, max_steps=fit.max_steps)
        return made

    def predict(self, **kwargs: Any) -> None:
        """Predict, and keep the numbers: ``predictions.pt`` in the trainer's root folder."""
        batches = self.trainer.predict(**kwargs)
        if batches and self.trainer.is_global_zero:
            path = Path(self.trainer.default_root_dir) / "predictions.pt"
            save_weights({"predictions": torch.cat(batches)}, path)
            print(f"predictions: {path}")

    def _parse_ckpt_path(self) -> None:
        # The stock method lays the checkpoint's hyperparameters over what the user typed.
        path = self.config.get(str(self.config.get("subcommand")), {}).get("ckpt_path")
        if path and os.path.isfile(path):
            try:
                saved = load_whole(path)
            except ValueError:
                saved = None
            if not isinstance(saved, dict) or "pytorch-lightning_version" not in saved:
                raise RequestError(
                    f"checkpoint {path} is damaged or not one of ours: take another, or leave out "
                    "--ckpt_path"
                )
        super()._parse_ckpt_path()
        if isinstance(self._given, list) and self.config.get("subcommand"):
            typed = self.parser.parse_args(self._given, defaults=False)
            self.config.update(typed)


def build(config: dict[str, Any]) -> EntroflowCLI:
    """The parsed config with ``model``, ``datamodule`` and ``trainer`` made from it, not run.

    Raises:
        argparse.ArgumentError: an unknown key or an impossible value.
    """
    return EntroflowCLI(args=config, run=False, save_config_callback=None)


def run_command(args: list[str]) -> int:
    """Run `entroflow` with these arguments; errors that a user can mend are one line.

    Ctrl-C and SIGTERM end a training after the step they came in, with its checkpoint saved.
    ``ENTROFLOW_TRACEBACK=1`` shows where an error came from.
    """
    wrong = (RequestError, ArgumentError, MisconfigurationException, ImportError)
    listen(signal.SIGINT, signal.SIGTERM)
    try:
        cli = EntroflowCLI(args=args)
        if (number := asked()) is not None:
            checkpoint = Path(cli.trainer.default_root_dir) / "last.ckpt"
            where = f"stopped at update {cli.trainer.global_step}"
            print(f"{where}: --ckpt_path {checkpoint} goes on from there", file=sys.stderr)
            return 128 + number
    except Stopped as stopped:
        print("stopped", file=sys.stderr)
        return 128 + signal.Signals[str(stopped)]
    except (Diverged, *wrong, OSError, ValueError, RuntimeError) as error:
        if os.environ.get("ENTROFLOW_TRACEBACK"):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1 if isinstance(error, Diverged) else 2
    return 0


# what jsonargparse wraps around the line that says what is wrong
_WRAPPING = (
    'Parser key "model"',
    'Parser key "data"',
    "Does not validate",
    "Subtypes:",
    "Errors:",
    "Expected a <class 'NoneType'>",
    "Given value",
)


def one_line(error: Exception) -> str:
    """The part of an error that names the mend, without wrapping, in one line."""
    lines = [line.strip().removeprefix("- ") for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(_WRAPPING)]
    text = re.sub(r'Parser key "(.*?)":', r"\1:", " ".join(kept or lines))
    if "size mismatch" in text or "Missing key(s) in state_dict" in text:
        return "the checkpoint does not fit this network: give the config it was trained with"
    return text[:400] or type(error).__name__


def quiet() -> None:
    """Silence what Lightning prints at every start: tips, device tables, known deprecations."""
    # Lightning 2.6 uses names that jsonargparse has deprecated
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*LeafSpec.*",
        ".*logs directory.*exists.*",
        "LightningCLI's args.*",
        "The `srun` command is available.*",
    ):
        warnings.filterwarnings("ignore", message)
