"""LightningCLI for every paper: the same YAML that the suite's cells resolve to.

Three things differ from the stock class. Explicit arguments win over a checkpoint's stored ones;
`marks` and `checkpoint` are top-level keys, so no overlay can lose them with a callback list; and
`seed_everything` reaches the model's noise and the data's order.
"""

import logging
import warnings
from typing import Any

import lightning_modules  # noqa: F401  (the torchvision guard, before lightning)
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lightning_modules.callbacks import FiniteLoss, LastCheckpoint, Marks

__all__ = ["EntroflowCLI", "build"]


class EntroflowCLI(LightningCLI):
    """`entroflow fit|validate|test|predict`, and the parser behind a cell's config."""

    def __init__(self, args: Any = None, run: bool = True, **kwargs: Any) -> None:
        quiet()
        self._given = args
        super().__init__(
            args=args,
            run=run,
            auto_configure_optimizers=False,
            trainer_defaults={"callbacks": [FiniteLoss()]},
            parser_kwargs={"exit_on_error": False},
            save_config_kwargs={"overwrite": True},
            **kwargs,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Marks, "marks")
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")
        parser.link_arguments("seed_everything", "model.init_args.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def _parse_ckpt_path(self) -> None:
        # The stock method lays the checkpoint's hyperparameters over what the user typed.
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


def quiet() -> None:
    """Silence what Lightning prints at every start: tips, device tables, known deprecations."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*LeafSpec.*", ".*logs directory.*exists.*", "LightningCLI's args.*"):
        warnings.filterwarnings("ignore", message)
