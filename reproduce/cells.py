"""A cell: one training, or one computation without training, named by what it computes.

Its config is the paper's YAML with an arm's keys changed and a seed set; its name carries eight
digits of the sha256 of that config without paths, so a moved folder changes nothing and a changed
learning rate makes another cell.
"""

import copy
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from reproduce.errors import RequestError
from reproduce.papers import seeds
from reproduce.target import Arm, Target

__all__ = ["Cell", "expand", "override", "resolve", "without_paths"]

# keys that say where, or what to print; not what is computed
_PATHS = {"default_root_dir", "save_dir", "root", "logger", "enable_progress_bar", "dirpath"}

# what a variant may add to a YAML that does not have it: how it trains, not what
_MACHINERY = frozenset(
    f"trainer.{k}" for k in ("num_nodes", "strategy", "precision", "gradient_clip_val")
)


@dataclass(frozen=True)
class Cell:
    """A resolved config with the arm's axes; equal configs are equal cells, whoever asks."""

    paper: str
    tier: str
    seed: int
    axes: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def sha256(self) -> str:
        return _sha256(self.tier, self.seed, self.config)

    @property
    def name(self) -> str:
        """``<readable slug>-<8 hex>``; the slug is read off the config, not off the asker."""
        model, data = (self.config[k]["init_args"] for k in ("model", "data"))
        parts = [(model.get(part) or {}).get("init_args", {}) for part in ("net", "vae")]
        how = [model.get("process"), parts[0].get("order"), parts[1].get("posterior")]
        what = [data.get("mixture") or data.get("source"), *filter(None, how)]
        words = [*what[:2], f"s{self.seed}"]
        slug = "-".join(re.sub(r"[^a-z0-9._]+", "-", str(w).lower()) for w in words if w)
        return f"{slug}-{self.sha256[:8]}"

    @property
    def updates(self) -> list[int]:
        """The updates after which the cell is measured; [0] without training."""
        last = self.config["trainer"]["max_steps"]
        return sorted({u for u in self.config["marks"]["updates"] if u <= last} | {last})


def _sha256(tier: str, seed: int, config: Mapping[str, Any]) -> str:
    text = json.dumps([tier, seed, without_paths(config)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def without_paths(node: Any) -> Any:
    """A config without the keys that say where, or what to print."""
    if isinstance(node, Mapping):
        return {k: without_paths(v) for k, v in node.items() if k not in _PATHS}
    return [without_paths(v) for v in node] if isinstance(node, list) else node


@cache
def _load(package: str, config: str, tier: str) -> dict[str, Any]:
    import yaml

    path = Path(__file__).parent / package / "configs" / f"{config}.{tier}.yaml"
    try:
        return yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise RequestError(
            f"no config {path.name} for {package}: add it to {path.parent.name}/"
        ) from None


def override(
    config: dict[str, Any], changes: Mapping[str, Any], may_add: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """A copy of ``config`` with dotted keys set.

    Raises:
        RequestError: a key that the config does not have, nor ``may_add`` name; grids change keys,
            they never add any.
    """
    config = copy.deepcopy(config)
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        node = config
        for key in path:
            node = node.get(key) if isinstance(node, dict) else None
        if not isinstance(node, dict) or (last not in node and dotted not in may_add):
            raise RequestError(f"unknown config key {dotted!r}: it is not in the YAML it changes")
        node[last] = value
    return config


def resolve(
    target: Target, tier: str, arm: Arm, seed: int, changes: Mapping[str, Any] | None = None
) -> Cell:
    """The cell of one arm and seed; ``changes`` are a user's own, on top of the arm's."""
    config = override(_load(target.package, arm.config or target.config, tier), arm.overrides)
    config = override(config, changes or {}, _MACHINERY)
    config["seed_everything"] = seed
    return Cell(target.paper, tier, seed, dict(arm.axes), config)


def expand(
    target: Target,
    tier: str,
    n_seeds: int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> list[Cell]:
    """All cells of a target at a tier, seeds outermost, so that early stops leave whole pairs."""
    return [
        resolve(target, tier, arm, seed, changes)
        for i, seed in enumerate(seeds(target, tier, n_seeds))
        for arm in target.arms(tier)
        if arm.seeds is None or i < arm.seeds
    ]
