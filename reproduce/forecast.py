"""What a run will cost, before it starts: cells, minutes and disk, from records of done cells."""

import heapq
import json
import math
import shutil
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from reproduce.cells import Cell, without_paths
from reproduce.errors import RequestError
from reproduce.launchers import Job
from reproduce.progress import duration
from reproduce.records import CorruptRecord, Store, nine_digits, read_record

__all__ = ["Cost", "Costs", "durations", "forecast", "makespan"]

# the published records, which price a run into a fresh folder too
PUBLISHED = Path(__file__).resolve().parents[1] / "results"

_BYTES = 4  # a parameter and each of its two Adam moments, in single precision


@dataclass(frozen=True)
class Cost:
    """What a cell is expected to take.

    Attributes:
        seconds, params: means over the records it rests on.
        records: the names of those cells.
        rough: they differ from the cell in more than the seed.
    """

    seconds: float
    params: float
    records: tuple[str, ...]
    rough: bool


class Costs:
    """Costs of done cells of one tier: those of the run's own folder, then the published ones."""

    def __init__(self, tier: str, store: Store, papers: Iterable[str]) -> None:
        roots = dict.fromkeys(root.resolve() for root in (store.root, PUBLISHED / tier))
        papers = set(papers)
        self._folders = [_by_group(root / "records" / p for p in papers) for root in roots]

    def of(self, cell: Cell, targets: Iterable[str]) -> Cost | None:
        """The mean over the records most like the cell, or None without any.

        Most alike are cells that differ in the seed alone; then, roughly, cells of its targets
        with the same classes of model and data; then any of its paper. A cell that trains is
        never priced by one that does not, nor by one with another class of network.
        """
        for level, groups in enumerate(_groups(cell.paper, targets, cell.config)):
            for known in self._folders:
                alike: dict[str, dict[str, Any]] = {}
                for group in groups:
                    alike |= known.get(group, {})
                if alike:
                    each = alike.values()
                    seconds = fmean(r["wall_s"] for r in each)
                    params = fmean(r["params"] for r in each)
                    return Cost(seconds, params, tuple(alike), rough=level > 0)
        return None


def _by_group(folders: Iterable[Path]) -> dict[Hashable, dict[str, dict[str, Any]]]:
    """Done records by the groups they belong to; each file is read once, damaged ones are not."""
    found: dict[Hashable, dict[str, dict[str, Any]]] = {}
    for path in (p for folder in folders for p in sorted(folder.glob("*.json"))):
        try:
            record = read_record(path)
            if record is None or record["status"] != "done":
                continue
            kept = {k: float(record[k]) for k in ("wall_s", "params")}
            if not all(0 <= v < math.inf for v in kept.values()):
                continue
            for groups in _groups(path.parent.name, record["targets"], record["config"]):
                for group in groups:
                    found.setdefault(group, {})[path.stem] = kept
        except (CorruptRecord, AttributeError, LookupError, TypeError, ValueError, OSError):
            continue  # the run of that cell sets it aside; here it only costs precision
    return found


def _groups(
    paper: str, targets: Iterable[str], config: Mapping[str, Any]
) -> tuple[list[Hashable], ...]:
    """The groups of cells that a cell belongs to, the most alike first."""
    seedless = {k: v for k, v in config.items() if k != "seed_everything"}
    same = json.dumps(nine_digits(without_paths(seedless)), sort_keys=True)
    net = config["model"]["init_args"].get("net") or {}
    work = (config["trainer"]["max_steps"] > 0, net.get("class_path"))
    kind = (config["model"]["class_path"], config["data"]["class_path"], work)
    return [same], [(target, kind) for target in targets], [(paper, work)]


def makespan(seconds: Iterable[float], n_workers: int) -> float:
    """Seconds until the last of ``n_workers`` is done, each taking the longest job that waits."""
    busy_until = [0.0] * n_workers
    for s in sorted(seconds, reverse=True):
        heapq.heapreplace(busy_until, busy_until[0] + s)
    return max(busy_until)


def forecast(jobs: list[Job], tier: str, store: Store, total: int, n_workers: int) -> str:
    """One line: how many of ``total`` cells will run, for how long, and what they will store.

    Raises:
        RequestError: the disk has no room for the checkpoints.
    """
    line = f"{len(jobs)} of {total} cells to run at tier {tier}"
    if not jobs:
        return line
    costs = Costs(tier, store, {job.cell.paper for job in jobs})
    each = [costs.of(job.cell, job.targets) for job in jobs]
    known = [(job, cost) for job, cost in zip(jobs, each, strict=True) if cost is not None]
    if not known:
        return f"{line}: no recorded cost yet"

    n_workers = min(n_workers, len(jobs))
    minutes = duration(makespan((cost.seconds for _, cost in known), n_workers))
    n_records = len({name for _, cost in known for name in cost.records})
    source = f"from {n_records} record{'s' * (n_records > 1)}"
    if n_rough := sum(cost.rough for _, cost in known):
        source += f"; rough for {n_rough}, priced by other cells"
    need = sum(_to_store(job.cell, cost.params, store) for job, cost in known)
    _require_space(need, len(known), store)
    workers = f"{n_workers} worker{'s' * (n_workers > 1)}"
    line += f": about {minutes} on {workers} ({source}), {_size(need)} of checkpoints"
    if unknown := len(jobs) - len(known):
        line += f"; {unknown} more without a recorded cost yet"
    return line


def durations(jobs: list[Job], tier: str, store: Store) -> dict[str, float]:
    """Seconds by cell, for a progress bar; a rough share of the whole where some are unknown."""
    costs = Costs(tier, store, {job.cell.paper for job in jobs})
    each = {job.cell.name: costs.of(job.cell, job.targets) for job in jobs}
    if None in each.values():
        return {job.cell.name: job.weight for job in jobs}
    return {name: cost.seconds for name, cost in each.items() if cost is not None}


def _to_store(cell: Cell, params: float, store: Store) -> float:
    """Bytes of checkpoint and weights at marks that the cell has yet to write."""
    copies = len(cell.updates)
    if cell.updates[-1]:
        callbacks = cell.config["trainer"].get("callbacks") or []
        ema = any(str(c.get("class_path", "")).split(".")[-1] == "EMA" for c in callbacks)
        copies += 1 + 2 + ema  # last.ckpt: weights, two Adam moments, averages
    folder = store.run_dir(cell)
    files = (folder / "last.ckpt", *folder.glob("weights-*.pt"))
    there = sum(path.stat().st_size for path in files if path.exists())
    return max(0.0, _BYTES * params * copies - there)


def _require_space(need: float, n_cells: int, store: Store) -> None:
    root = store.root.absolute()
    folder = next(path for path in (root, *root.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    if need > free:
        raise RequestError(
            f"the checkpoints of {n_cells} cells need about {_size(need)} and {store.root} has "
            f"{_size(free)} free: free some space or choose another folder with --results "
            "(make: RESULTS=...)"
        )


def _size(n_bytes: float) -> str:
    """``940 kB``, ``3.3 MB``, ``38 GB``."""
    value, unit = n_bytes / 1e3, "kB"
    for larger in ("MB", "GB", "TB"):
        if round(value) < 1000:
            break
        value, unit = value / 1e3, larger
    return f"{value:.1f} {unit}" if 0 < value < 9.95 else f"{value:.0f} {unit}"
