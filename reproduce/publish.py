"""From records to everything a reader sees: tables, claims, figures, report. Trains nothing."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from reproduce import figures
from reproduce.claims import judge
from reproduce.papers import targets
from reproduce.records import CorruptRecord, Store, read_arrays, read_record
from reproduce.report import Section, write
from reproduce.statistics import holm
from reproduce.tables import Observed, as_of_today, cells_table, observe, summary_table, to_csv
from reproduce.target import Target, named
from reproduce.verdict import Verdict, claims_table

__all__ = ["publish", "publish_tables", "read_sections"]


@dataclass(frozen=True)
class _Reading:
    """What the records of one target say: observations, their table, their verdicts."""

    seen: Observed
    table: pd.DataFrame
    verdicts: list[Verdict]

    @property
    def there(self) -> bool:
        return bool((self.seen.cells["status"] != "missing").any())


def _read(tier: str, store: Store) -> dict[str, _Reading]:
    """Every target of the suite, Holm's correction made within each paper."""
    found: dict[str, _Reading] = {}
    by_paper: dict[str, list[Verdict]] = {}
    for target in targets().values():
        seen = observe(target, tier, store)
        found[target.id] = _Reading(seen, summary_table(seen), judge(seen))
        by_paper.setdefault(target.paper, []).extend(found[target.id].verdicts)
    marked = {v.claim: v for verdicts in by_paper.values() for v in holm(verdicts)}
    for reading in found.values():
        reading.verdicts[:] = [marked[v.claim] for v in reading.verdicts]
    return found


def publish_tables(chosen: Iterable[Target], tier: str, store: Store) -> dict[str, _Reading]:
    """Write both tables of each chosen target, and ``claims.csv`` of the whole tier."""
    found, ids = _read(tier, store), {t.id for t in chosen}
    for target_id, reading in found.items():
        if target_id in ids and reading.there:
            to_csv(reading.table, store.root / f"{target_id}.csv")
            to_csv(cells_table(reading.seen), store.root / f"{target_id}.cells.csv")
    verdicts = [v for reading in found.values() for v in reading.verdicts]
    to_csv(claims_table(verdicts), store.root / "claims.csv")
    return found


def publish(
    chosen: Iterable[Target], tier: str, store: Store, command: str
) -> tuple[list[Section], Path]:
    """Tables and figures of the chosen targets, and a report over the whole tier."""
    chosen = list(chosen)
    found = publish_tables(chosen, tier, store)
    for target in chosen:
        _draw(found[target.id].seen, store)
    sections = [_section(reading, store) for reading in found.values()]
    provenance = {
        "tier": tier,
        "records": f"{len({name for s in sections for name in s.costs})} cells in "
        f"{len(sections)} targets",
        "made by": command,
        **_origins(store),
    }
    return sections, write(tier, sections, store.root, provenance)


def read_sections(tier: str, store: Store) -> list[Section]:
    """What the report shows, without writing anything."""
    return [_section(reading, store) for reading in _read(tier, store).values()]


def _draw(seen: Observed, store: Store) -> None:
    folder = store.root / "records" / seen.target.paper
    names = seen.cells.loc[seen.cells["status"] == "done", "cell"]
    found = [r for name in names if (r := read_record(folder / f"{name}.json")) is not None]
    records = [
        as_of_today(seen.target, record)
        | {"arrays": read_arrays(folder / f"{record['cell']}.npz")}
        for record in found
    ]
    if records:
        drawn = named(seen.target.figure)(seen, records)
        figures.save(drawn, store.root / f"{seen.target.id}.svg", _digest(records))


def _digest(records: list[dict[str, Any]]) -> str:
    """Of all numbers that a figure may show, and not of when and where they were made."""
    told = hashlib.sha256()
    for record in records:
        parts = {k: record[k] for k in ("cell", "metrics", "curves")}
        told.update(json.dumps(parts, sort_keys=True).encode())
        for name, array in sorted(record["arrays"].items()):
            told.update(name.encode() + array.tobytes())
    return told.hexdigest()


def _section(reading: _Reading, store: Store) -> Section:
    target, cells = reading.seen.target, reading.seen.cells
    svg = store.root / f"{target.id}.svg"
    return Section(
        target=target,
        table=reading.table,
        verdicts=reading.verdicts,
        figure=svg if reading.there and svg.exists() else None,
        cells=len(cells),
        done=int((cells["status"] == "done").sum()),
        failed=int((cells["status"] == "failed").sum()),
        stale=reading.seen.stale,
        wall_s=float(cells["wall_s"].sum()),
        command=f"make {target.id} TIER={reading.seen.tier}",
        costs=dict(zip(cells["cell"], cells["wall_s"], strict=True)),
    )


def _origins(store: Store) -> dict[str, str]:
    """What made the tier's records, each with how many it made."""
    kinds = ("commit", "device", "processor", "packages")
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    for path in sorted((store.root / "records").glob("*/*.json")):
        try:
            record: Any = read_record(path)
        except CorruptRecord:
            continue
        packages = record["packages"]
        changed = " with changes" if record["dirty"] else ""
        counts["commit"][(record["git_sha"] or "unknown")[:12] + changed] += 1
        counts["device"][f"{record['device']}, {record['precision']}"] += 1
        counts["processor"][record.get("processor") or "not recorded"] += 1
        counts["packages"][", ".join(f"{k} {packages[k]}" for k in sorted(packages))] += 1
    return {
        key: "; ".join(f"{value} ({n})" for value, n in sorted(found.items()))
        for key, found in counts.items()
        if found
    }
