"""Takes in the records of another machine: all of them checked first, then each atomically."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduce import papers
from reproduce.cells import Cell, expand
from reproduce.errors import RequestError
from reproduce.records import (
    Busy,
    CorruptRecord,
    Store,
    complete,
    fit_key,
    missing,
    write_atomically,
)
from reproduce.target import Evaluator, Target
from reproduce.trust import device_kind, read, read_sidecar

__all__ = ["merge"]

Record = dict[str, Any]
Asked = dict[str, tuple[Cell, list[Target]]]


@dataclass(frozen=True)
class _Theirs:
    """A checked record from elsewhere, and the targets that ask for its cell today."""

    cell: Cell
    record: Record
    sidecar: bytes | None
    targets: list[Target]


def merge(folder: Path, tier: str, store: Store) -> list[str]:
    """Take in what a folder holds and the store lacks; return what was done, in lines.

    A complete record is taken where ours is absent, damaged (it is set aside), failed, or lacks
    evaluators of today that theirs holds; else ours stays. Either way it serves the targets of
    both. A second merge changes nothing.

    Args:
        folder: a results folder, that of a tier, or its ``records``.

    Raises:
        RequestError: there are no records, one of them cannot be trusted, or a target's seed would
            rest on two kinds of device (then nothing is written); or another process has a cell.
    """
    asked = _cells(tier, store)
    complete_ones, skipped = [], []
    for path in _files(folder, tier):
        cell, record = read(path, tier)
        sidecar = read_sidecar(path.with_suffix(".npz"))
        today, targets = asked.get(cell.name, (None, []))
        if today is None or today.sha256 != cell.sha256:
            skipped.append(f"skipped {cell.name}: no target of today asks for it")
            continue
        named = [t for t in targets if t.id in record["targets"]] or targets
        if why := _incomplete(cell, record, named):
            skipped.append(f"skipped {cell.name}: {why}")
        else:
            complete_ones.append(_Theirs(today, record, sidecar, targets))
    _require_pairs(complete_ones, asked, store)
    if complete_ones:
        store.require_writable()
    done = [_take_in(theirs, store) for theirs in complete_ones]
    lines = [line for _, line in done if line] + skipped
    taken = sum(was_taken for was_taken, _ in done)
    counts = f"{taken} taken, {len(done) - taken} kept, {len(skipped)} skipped"
    return [*lines, f"{counts} at tier {tier}"]


def _cells(tier: str, store: Store) -> Asked:
    """Today's cells of a tier, for all seeds, each with the targets that ask for it."""
    asked: Asked = {}
    for target in papers.targets().values():
        for cell in expand(target, tier, len(papers.PAPERS[target.paper][1]), store.changes):
            asked.setdefault(cell.name, (cell, []))[1].append(target)
    return asked


def _files(folder: Path, tier: str) -> list[Path]:
    for base in (folder / tier / "records", folder / "records", folder):
        found = (path for paper in papers.PAPERS for path in (base / paper).glob("*.json"))
        if paths := sorted(path for path in found if not path.name.startswith(".")):
            return paths
    raise RequestError(
        f"no records of tier {tier} in {folder}: give a results folder, one tier of it or its "
        "records, or another --tier"
    )


def _evaluators(cell: Cell, targets: Iterable[Target]) -> tuple[Evaluator, ...]:
    return tuple(dict.fromkeys(e for t in targets for e in t.measured(cell)))


def _incomplete(cell: Cell, record: Record, targets: list[Target]) -> str:
    """What a record lacks to answer these targets, or ""."""
    evaluators, fit = _evaluators(cell, targets), fit_key(cell.paper)
    if complete(cell, record, evaluators):
        return ""
    if record["status"] != "done":
        return "it failed there"
    absent = [] if fit in record["metrics"] else [fit]
    absent += [e.key for e in missing(record, evaluators)]
    return f"it has no {', '.join(absent)}"


def _ours(store: Store, cell: Cell) -> Record | None:
    """Our record, or None where it is absent or damaged."""
    try:
        return store.read(cell)
    except CorruptRecord:
        return None


def _decide(theirs: _Theirs, ours: Record | None) -> tuple[bool, str]:
    """Whether theirs replaces ours, and a line where each has something that the other lacks."""
    if ours is None:
        return True, ""
    evaluators, fit = _evaluators(theirs.cell, theirs.targets), fit_key(theirs.cell.paper)

    def held(record: Record) -> set[str]:
        lacks = missing(record, evaluators) if fit in record["metrics"] else evaluators
        return {e.key for e in evaluators} - {e.key for e in lacks}

    lost = held(ours) - held(theirs.record)
    gained = held(theirs.record) - held(ours)
    if not lost:
        return bool(gained) or ours["status"] != "done", ""
    if not gained:
        return False, ""
    return False, (
        f"kept {theirs.cell.name}: only ours has {', '.join(sorted(lost))} and only theirs "
        f"{', '.join(sorted(gained))}: run its targets to measure the rest"
    )


def _require_pairs(candidates: list[_Theirs], asked: Asked, store: Store) -> None:
    """Raise RequestError if taking records would put one pair on two kinds of device.

    Precision needs no look: it stands in a cell's config, so only the target itself can vary it.
    """
    taken = [t for t in candidates if _decide(t, _ours(store, t.cell))[0]]
    coming = {t.cell.name: t.record for t in taken}
    touched = {(target.id, t.cell.seed) for t in taken for target in t.targets}
    found: dict[tuple[str, int], dict[str, str]] = {}
    for name, (cell, targets) in asked.items():
        for pair in touched & {(target.id, cell.seed) for target in targets}:
            record = coming.get(name) or _ours(store, cell)
            if record is not None and record["status"] == "done":
                found.setdefault(pair, {}).setdefault(device_kind(record), name)
    for (target_id, seed), kinds in sorted(found.items()):
        if len(kinds) > 1:
            where = " and ".join(f"{kind} ({name})" for kind, name in sorted(kinds.items()))
            raise RequestError(
                f"{target_id}, seed {seed}: its arms would come from {where}, but pairs share "
                "the kind of device: merge into another --results, or run the target on one kind"
            )


def _take_in(theirs: _Theirs, store: Store) -> tuple[bool, str]:
    """Write what is to be written of one record; whether it was taken, and a line or ""."""
    cell, ours = theirs.cell, _ours(store, theirs.cell)
    take, line = _decide(theirs, ours)
    if ours and not take and set(theirs.record["targets"]) <= set(ours["targets"]):
        return False, line
    try:
        with store.lock(cell):
            aside = ""
            try:
                ours = store.read(cell)
            except CorruptRecord as error:
                ours, aside = None, f"{error}: set aside as {store.set_aside(cell).name}"
            take, line = _decide(theirs, ours)
            kept = theirs.record if take or ours is None else ours
            if take and theirs.sidecar is not None:
                write_atomically(store.path(cell).with_suffix(".npz"), theirs.sidecar)
            old = ours["targets"] if ours else []
            store.write(cell, kept | {"targets": sorted({*theirs.record["targets"], *old})})
            return take, aside or line
    except Busy:
        raise RequestError(
            f"{cell.name} is being run: merge again when that run has ended; what is in stays in"
        ) from None
