"""From records to everything a reader sees: tables, claims, figures, report. Trains nothing."""

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reproduce import figures
from reproduce.claims import Verdict, claims_table, judge
from reproduce.papers import targets
from reproduce.records import Store
from reproduce.report import Section, write
from reproduce.statistics import holm
from reproduce.tables import Observed, cells_table, observe, summary_table, to_csv
from reproduce.target import Target

__all__ = ["Published", "publish", "publish_tables"]


@dataclass(frozen=True)
class Published:
    """What a run of a tier has to show."""

    sections: list[Section]
    report: Path | None

    @property
    def verdicts(self) -> list[Verdict]:
        return [v for section in self.sections for v in section.verdicts]


def publish_tables(chosen: Iterable[Target], tier: str, store: Store) -> dict[str, Observed]:
    """Write both tables of each chosen target and the tier's ``claims.csv``; return what was read.

    ``claims.csv`` covers every target of the tier, so that one target's run leaves it complete.
    """
    ids = {t.id for t in chosen}
    seen = {t.id: observe(t, tier, store) for t in targets().values()}
    for target_id, one in seen.items():
        if target_id in ids and _anything(one):
            to_csv(summary_table(one), store.root / f"{target_id}.csv")
            to_csv(cells_table(one), store.root / f"{target_id}.cells.csv")
    verdicts = [v for one in seen.values() for v in judge(one)]
    to_csv(claims_table(verdicts), store.root / "claims.csv")
    return seen


def publish(chosen: Iterable[Target], tier: str, store: Store, command: str) -> Published:
    """Tables and figures of the chosen targets, and a report over the whole tier."""
    chosen = list(chosen)
    seen = publish_tables(chosen, tier, store)
    for target in chosen:
        if _anything(seen[target.id]):
            _draw(seen[target.id], store)
    sections = [_section(one, store) for one in seen.values()]
    by_paper: dict[str, list[Verdict]] = {}
    for section in sections:
        by_paper.setdefault(section.target.paper, []).extend(section.verdicts)
    marked = {v.claim: v for each in by_paper.values() for v in holm(each)}
    for section in sections:
        section.verdicts[:] = [marked[v.claim] for v in section.verdicts]
    provenance = {
        "tier": tier,
        "records": f"{sum(s.done for s in sections)} cells done in {len(sections)} targets",
        "made by": command,
        **_origins(store),
    }
    return Published(sections, write(tier, sections, store.root, provenance))


def _anything(seen: Observed) -> bool:
    return bool((seen.cells["status"] != "missing").any())


def _records(seen: Observed, store: Store) -> list[dict]:
    """The finished records, in the order of the cells."""
    from reproduce.records import read_record

    folder = store.root / "records" / seen.target.paper
    names = seen.cells.loc[seen.cells["status"] == "done", "cell"]
    return [r for name in names if (r := read_record(folder / f"{name}.json")) is not None]


def _draw(seen: Observed, store: Store) -> None:
    records = _records(seen, store)
    if not records:
        return
    module, name = seen.target.figure.split(":")
    drawn = getattr(importlib.import_module(module), name)(seen, records)
    figures.save(drawn, store.root / f"{seen.target.id}.svg")


def _section(seen: Observed, store: Store) -> Section:
    target, status = seen.target, seen.cells["status"]
    svg = store.root / f"{target.id}.svg"
    return Section(
        target=target,
        table=summary_table(seen),
        verdicts=judge(seen),
        figure=svg if svg.exists() and _anything(seen) else None,
        cells=len(seen.cells),
        done=int((status == "done").sum()),
        failed=int((status == "failed").sum()),
        stale=seen.stale,
        wall_s=float(seen.cells["wall_s"].sum()),
        command=f"make {target.id} TIER={seen.tier}",
    )


def _origins(store: Store) -> dict[str, str]:
    """Commits, devices and package versions of the tier's records, each with how many."""
    from reproduce.records import CorruptRecord, read_record

    rows = []
    for path in sorted((store.root / "records").glob("*/*.json")):
        try:
            record = read_record(path)
        except CorruptRecord:
            continue
        assert record is not None
        sha = (record["git_sha"] or "unknown")[:12] + (" with changes" if record["dirty"] else "")
        packages = record["packages"]
        rows.append(
            {
                "commit": sha,
                "device": f"{record['device']}, {record['precision']}",
                "packages": ", ".join(f"{k} {packages[k]}" for k in sorted(packages)),
            }
        )
    frame = pd.DataFrame(rows, columns=["commit", "device", "packages"])
    return {
        column: "; ".join(
            f"{value} ({n})" for value, n in sorted(frame[column].value_counts().items())
        )
        for column in frame
        if len(frame)
    }
