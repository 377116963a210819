"""Records from elsewhere for tests: honest ones without any training, and ways to forge them."""

import copy
import json
from pathlib import Path
from typing import Any

import tiny

from reproduce.cells import Cell
from reproduce.records import blank

PAPER = "neural-entropy"


def honest(
    cell: Cell, targets=("tiny",), evaluators=(tiny.NORM,), value: float = 1.5, **changes
) -> dict[str, Any]:
    """A done record of a tiny cell, all of whose numbers are ``value``."""
    marks = {"updates": [4, 8, 12], "norm": [value] * 3, "sum": [value] * 3}
    keys = [e.key for e in evaluators]
    return {
        **blank(cell, None, targets),
        "status": "done",
        "metrics": {"fit@1": {"train_loss": value}} | {k: {"norm": value} for k in keys},
        "curves": {"fit@1": {"updates": [12], "loss": [value]}} | dict.fromkeys(keys, marks),
        "params": 7,
        "wall_s": 1.0,
        "peak_mem_mb": 100.0,
        "git_sha": "0" * 40,
        "dirty": False,
        "packages": {"torch": "2.11.0", "numpy": "2.0.0"},
        "data_sha256": "1" * 64,
        "utc": "2030-01-01T00:00:00Z",
        **changes,
    }


def changed(record: dict[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """A copy with one key set, however deep."""
    record = copy.deepcopy(record)
    *path, last = dotted.split(".")
    node = record
    for key in path:
        node = node[key]
    node[last] = copy.deepcopy(value)  # jsonargparse writes into what it parses
    return record


def renamed(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the hash, and if it can be told the name, that its config now has."""
    cell = Cell(PAPER, record["tier"], record["seed"], {}, record["config"])
    try:
        name = cell.name
    except (TypeError, AttributeError, KeyError):
        name = f"d3-vp-s1-{cell.sha256[:8]}"
    return {**record, "config_sha256": cell.sha256, "cell": name}


def save(results: Path, record: dict[str, Any], name: str = "") -> Path:
    """Write a record where a results folder has it, as it is."""
    folder = results / record["tier"] / "records" / PAPER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name or record['cell']}.json"
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    return path
