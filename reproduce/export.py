"""Trained models to hand on: ``results/<tier>/models/<cell>/``, and how to load them.

    model.safetensors   the weights that the cell's numbers were measured with (their averages,
                        where the run keeps some), and what is needed to build the model again
    config.yaml         the same config, for people and for `entroflow fit -c`
    README.md           the model card

They are functions of the record and the weights in ``results/<tier>/runs/<cell>/``: a second
export writes the same bytes.
"""

import copy
import importlib.metadata
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning_modules  # noqa: F401  (the torchvision guard, before lightning)
from lightning_modules.callbacks import Marks, load_whole
from lightning_modules.weights import sha256_of

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from reproduce.cells import expand
from reproduce.errors import RequestError
from reproduce.papers import PAPERS, find
from reproduce.records import Store, fit_key, write_atomically
from reproduce.trust import check_config, read

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

__all__ = ["export", "load"]

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.yaml", "README.md"
KEY = "entroflow"  # of the metadata: of several keys safetensors shuffles the order
YAML_HEAD = "# entroflow fit -c config.yaml --trainer.default_root_dir FOLDER trains it again\n"


@dataclass(frozen=True)
class _Trained:
    """The record of a finished cell, and the weights that it speaks of."""

    record: dict[str, Any]
    weights: Path


# ------------------------------------------------------------------------------------- to files
def export(names: Iterable[str], store: Store) -> Iterator[str]:
    """Write the models of these targets; a line on each, and one on all.

    Args:
        names: targets, papers or ``all``; each must have a finished cell with its weights.

    Raises:
        RequestError: one has none, or a file is damaged; nothing is written before all are found.
    """
    models: dict[str, _Trained] = {}
    lost: set[str] = set()
    for name in names:
        found, without = _trained(name, store)
        models |= found
        lost |= without
    for cell, model in models.items():
        folder = store.root / "models" / cell
        _write(model, folder, store.changes)
        yield f"{folder}: {model.record['params']:,} parameters"
    more = f"; {len(lost)} cells with a record have no weights here" if lost else ""
    yield f"{len(models)} models in {store.root / 'models'}{more}"


def _trained(name: str, store: Store) -> tuple[dict[str, _Trained], set[str]]:
    """The finished cells of a target or paper by name, and the names of those without weights."""
    found: dict[str, _Trained] = {}
    trains, lost = False, set()
    for target in find([name]):
        for cell in expand(target, store.tier, len(PAPERS[target.paper][1]), store.changes):
            if not cell.updates[-1]:
                continue
            trains = True
            path, weights = store.path(cell), Marks.path(store.run_dir(cell), cell.updates[-1])
            if not path.exists():
                continue
            if not weights.exists():
                lost.add(cell.name)
                continue
            _, record = read(path, store.tier)
            done = record["status"] == "done" and fit_key(cell.paper) in record["metrics"]
            if done and target.id in record["targets"] and record["config_sha256"] == cell.sha256:
                found[cell.name] = _Trained(record, weights)
    if found:
        return found, lost
    if not trains:
        raise RequestError(f"{name} trains nothing at tier {store.tier}: no model to export")
    if store.changes:
        raise RequestError(
            f"no trained weights of {name} in {store.root / 'runs'}: run this variant under "
            "another --label, and export that"
        )
    place, why = store.results, ""
    if lost:  # done cells are not run again where their records are
        place = Path("mine" if place.name != "mine" else "mine-again")
        why = ", where records are kept without them"
    raise RequestError(
        f"no trained weights of {name} in {store.root / 'runs'}{why}: make {name} "
        f"TIER={store.tier} RESULTS={place}, then make export TARGET={name} TIER={store.tier} "
        f"RESULTS={place}"
    )


def _write(model: _Trained, folder: Path, changes: Mapping[str, Any]) -> None:
    from reproduce.cards import card  # pandas takes time, and `load` needs none

    record, config = model.record, model.record["config"]
    about = {
        "class_path": config["model"]["class_path"],
        "config": config,
        "cell": record["cell"],
        "config_sha256": record["config_sha256"],
        "suite": _version(),
    }
    weights = folder / WEIGHTS
    _save(_tensors(model.weights), about, weights)
    write_atomically(folder / CONFIG, YAML_HEAD + yaml.safe_dump(config, sort_keys=True))
    write_atomically(folder / CARD, card(record, sha256_of(weights), changes))


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """A state dict, no two of its tensors in the same memory.

    Raises:
        RequestError: the file is damaged, or holds more than tensors.
    """
    try:
        state = load_whole(path)
    except ValueError as error:
        raise RequestError(f"{error}: remove the cell's record and run its target again") from None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise RequestError(f"{path} is no state dict of tensors: it cannot be exported")
    return {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in state.items()}


def _save(tensors: dict[str, torch.Tensor], about: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, {KEY: json.dumps(about, sort_keys=True)})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _version() -> str:
    try:
        return importlib.metadata.version("entroflow")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


# ----------------------------------------------------------------------------------- from files
def load(folder: str | Path) -> "LightningModule":
    """The model in a folder that ``export`` wrote: on the CPU, in eval mode, as it was measured.

    Nothing is unpickled, and its config may name no class but the suite's, and torch's and
    Lightning's where the suite's own configs have them. The global random state is left alone.

    Raises:
        RequestError: a file is absent, damaged or changed, names what it may not, or was made by
            another version of the model.
    """
    folder = Path(folder).expanduser()
    about, tensors = _read(folder / WEIGHTS)
    try:
        config = about["config"]
        if yaml.safe_load((folder / CONFIG).read_text()) != config:
            raise RequestError(f"{CONFIG} is not the config that {WEIGHTS} was trained with")
        check_config(config)
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError, RequestError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(f"{folder} holds no exported model: {why}; export it again") from None
    model = _build(config, folder)
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        raise RequestError(
            f"{folder}: its weights do not fit the network of its config as it is built today; "
            f"load it with entroflow {about.get('suite')}, or export it again"
        ) from None
    return model.eval()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What is said about the model, and its tensors."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})[KEY])
            return dict(about), {k: file.get_tensor(k) for k in file.keys()}
    except FileNotFoundError:
        raise RequestError(f"no {WEIGHTS} in {path.parent}: give a folder of models/") from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{path} is damaged or no exported model: {error}") from None


def _build(config: dict[str, Any], folder: Path) -> "LightningModule":
    """The model of a config that was checked, its weights random."""
    from lightning.pytorch import LightningModule
    from lightning.pytorch.cli import LightningArgumentParser

    from reproduce.training import one_line, quiet

    quiet()
    wanted = copy.deepcopy(config["model"])  # jsonargparse writes into what it parses
    wanted["init_args"]["seed"] = config["seed_everything"]
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    try:
        with torch.random.fork_rng(devices=[]):
            parsed = parser.parse_object({"model": wanted})
            return parser.instantiate_classes(parsed).model
    except Exception as error:  # arguments of another version: parser, type and value errors
        raise RequestError(f"{folder}: its model cannot be built: {one_line(error)}") from None
