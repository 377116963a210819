"""Records: one JSON per cell, whole or absent, and the locks that keep two workers apart."""

import fcntl
import json
import math
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from reproduce.cells import Cell, without_paths
from reproduce.errors import RequestError
from reproduce.papers import MODELS
from reproduce.target import Evaluator

__all__ = [
    "Busy",
    "CorruptRecord",
    "SIDECAR_BYTES",
    "Store",
    "blank",
    "complete",
    "fail",
    "fit_key",
    "missing",
    "nine_digits",
    "read_arrays",
    "read_record",
    "write_atomically",
]

SIDECAR_BYTES = 200_000  # on disk

KEYS = (
    "targets cell tier seed status config config_sha256 metrics curves params wall_s peak_mem_mb "
    "git_sha dirty packages device precision data_sha256 utc"
).split()


class Busy(Exception):
    """Another process works on this cell."""


class CorruptRecord(Exception):
    """A record that is not a whole JSON with a record's keys."""


class Store:
    """The files of one tier: ``records/<paper>/<cell>.json`` and ``runs/<cell>/``."""

    def __init__(self, results: Path | str, tier: str) -> None:
        self.tier, self.results = tier, Path(results)
        self.root = self.results / tier

    @cached_property
    def changes(self) -> dict[str, Any]:
        """Config keys that a user's variant changes; none in a published folder."""
        from reproduce.variants import changes_of

        return changes_of(self.results)

    def path(self, cell: Cell) -> Path:
        return self.root / "records" / cell.paper / f"{cell.name}.json"

    def run_dir(self, cell: Cell) -> Path:
        """Checkpoint, weights at marks and log of a cell; ignored by git."""
        return self.root / "runs" / cell.name

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """The cell's record, or None.

        Raises:
            CorruptRecord: it is there but cannot be used.
        """
        return read_record(self.path(cell))

    def write(self, cell: Cell, record: dict[str, Any]) -> None:
        """Replace the cell's record atomically."""
        absent = [k for k in KEYS if k not in record]
        if absent:
            raise ValueError(f"a record without {', '.join(absent)}")
        text = json.dumps(nine_digits(record), indent=1, sort_keys=True) + "\n"
        write_atomically(self.path(cell), text)

    def write_arrays(self, cell: Cell, arrays: dict[str, Any]) -> None:
        """Add arrays to the record's sidecar, atomically; it is written before the record.

        Raises:
            ValueError: the sidecar would be larger than 200 kB.
        """
        import io

        import numpy as np

        path, packed = self.path(cell).with_suffix(".npz"), io.BytesIO()
        np.savez_compressed(packed, **{**read_arrays(path), **arrays})
        if packed.tell() > SIDECAR_BYTES:
            raise ValueError(f"{path.name} would have {packed.tell()} bytes: store fewer tiles")
        write_atomically(path, packed.getvalue())

    def set_aside(self, cell: Cell) -> Path:
        """Rename a corrupt record, so that nothing is lost and the cell counts as missing."""
        path, n = self.path(cell), 1
        while (aside := path.with_suffix(f".json.{n}.corrupt")).exists():
            n += 1
        os.replace(path, aside)
        return aside

    def adopt(self, cell: Cell, targets: list[str]) -> None:
        """Note in an existing record that these targets use it too."""
        with self.lock(cell):
            record = self.read(cell)
            if record is not None and not set(targets) <= set(record["targets"]):
                record["targets"] = sorted({*record["targets"], *targets})
                self.write(cell, record)

    @contextmanager
    def lock(self, cell: Cell) -> Iterator[None]:
        """Own the cell while inside; the lock dies with its process.

        Raises:
            Busy: another process owns it.
        """
        folder = self.run_dir(cell)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(cell.name) from None
            yield

    def require_writable(self) -> None:
        """Raise RequestError unless records, tables and runs can be written."""
        try:
            for folder in (self.root, self.root / "records", self.root / "runs"):
                folder.mkdir(parents=True, exist_ok=True)
                probe = folder / f".probe-{os.getpid()}"
                probe.touch()
                probe.unlink()
        except OSError as error:
            raise RequestError(
                f"cannot write to {self.root} ({error.strerror}): "
                "make it writable or choose another folder with --results (make: RESULTS=...)"
            ) from None


def read_record(path: Path) -> dict[str, Any] | None:
    """The record in a file, or None where there is no file.

    Raises:
        CorruptRecord: it is there but cannot be used.
    """
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (ValueError, UnicodeDecodeError):
        raise CorruptRecord(f"{path.name} is not whole JSON") from None
    if not isinstance(record, dict) or any(k not in record for k in KEYS):
        raise CorruptRecord(f"{path.name} lacks a record's keys")
    kinds = {"targets": list, "metrics": dict, "curves": dict, "packages": dict, "status": str}
    if wrong := [k for k, kind in kinds.items() if not isinstance(record[k], kind)]:
        raise CorruptRecord(f"{path.name} has no usable {', '.join(wrong)}")
    return record


def blank(cell: Cell, old: dict[str, Any] | None, targets: Iterable[str]) -> dict[str, Any]:
    """A record to fill: what an earlier one holds of this very cell stays."""
    keep = old or {}
    return {
        "targets": sorted({*targets, *(old or {}).get("targets", [])}),
        "cell": cell.name,
        "tier": cell.tier,
        "seed": cell.seed,
        "config": without_paths(cell.config),
        "config_sha256": cell.sha256,
        "metrics": dict(keep.get("metrics", {})),
        "curves": dict(keep.get("curves", {})),
        "params": keep.get("params", 0),
        "wall_s": keep.get("wall_s", 0.0),
        "device": keep.get("device", "cpu"),
        "precision": str(cell.config["trainer"].get("precision", "32-true")),
        "data_sha256": keep.get("data_sha256"),
    }


def fail(record: dict[str, Any], error: str) -> dict[str, Any]:
    """The record of a cell that did not finish: a row like any other."""
    return {**record, "status": "failed", "error": error}


def missing(record: dict[str, Any] | None, evaluators: tuple[Evaluator, ...]) -> list[Evaluator]:
    """The evaluators whose numbers a record does not hold."""
    if record is None:
        return list(evaluators)
    held = record["metrics"].keys() & record["curves"].keys()
    return [e for e in evaluators if e.key not in held]


def fit_key(paper: str) -> str:
    """Where a record holds the training of the paper's model as it is today."""
    return f"fit@{MODELS[paper]}"


def complete(cell: Cell, record: dict[str, Any] | None, evaluators: tuple[Evaluator, ...]) -> bool:
    """Nothing is left to do for these evaluators."""
    if (
        record is None
        or record["status"] != "done"
        or fit_key(cell.paper) not in record["metrics"]
    ):
        return False
    return not missing(record, evaluators)


def read_arrays(path: Path) -> dict[str, Any]:
    """The arrays of a sidecar by name; none where it is absent or damaged."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return {}


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write under a temporary name and rename: a reader sees the old file or the new one."""
    raw = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    # process numbers alone are not unique where several machines share a folder
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}")
    try:
        with temporary.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def nine_digits(node: Any) -> Any:
    """Floats to nine significant digits; what is not a number becomes null."""
    if isinstance(node, float):
        return float(f"{node:.9g}") if math.isfinite(node) else None
    if isinstance(node, dict):
        return {k: nine_digits(v) for k, v in node.items()}
    if isinstance(node, list | tuple):
        return [nine_digits(v) for v in node]
    return node
