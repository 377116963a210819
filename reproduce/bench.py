"""Speed against what a user has today: contenders side by side, judged by ratios alone.

On a machine that is shared, seconds depend on who else is there. So in each round every contender
of a workload runs once, in shuffled order; a contender's value is divided by its reference's of
the same round, and the median of these ratios, with their range, is what counts.
"""

import csv
import io
import random
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduce.bench_machine import machine
from reproduce.errors import RequestError
from reproduce.records import write_atomically
from reproduce.target import named

__all__ = ["Contender", "Workload", "bench", "in_turn", "measure"]

ROUNDS = 3
WORKLOADS = {
    "w1": "reproduce.bench_flows:flows",
    "w2": "reproduce.bench_tokens:tokens",
    "w3": "reproduce.bench_networks:networks",
    "w5": "reproduce.bench_startup:startup",
    "w6": "reproduce.bench_sweep:sweep",
    "w7": "reproduce.bench_steps:steps",
}


@dataclass(frozen=True)
class Contender:
    """One row of a workload's table.

    Attributes:
        reference: the contender of the same round that it is divided by, or several: the best of
            them; none for a yardstick.
        accept, aim: bounds for the ratio, or for the value itself where ``absolute``.
        note: what is in the value and what is not.
        unit: of its value, where it is not the workload's.
    """

    name: str
    reference: str | tuple[str, ...] = ()
    accept: float | None = None
    aim: float | None = None
    absolute: bool = False
    note: str = ""
    unit: str = ""

    @property
    def references(self) -> tuple[str, ...]:
        return (self.reference,) if isinstance(self.reference, str) else self.reference


@dataclass(frozen=True)
class Workload:
    """Contenders and how a round of them is run.

    Attributes:
        unit: of all values; seconds and MiB are the better the fewer, everything else the more.
        round: gets the contenders' names in this round's order, yields (name, value).
        prepare: run once before the first round, for what must not be measured.
    """

    name: str
    title: str
    unit: str
    contenders: tuple[Contender, ...]
    round: Callable[[list[str]], Iterable[tuple[str, float]]]
    prepare: Callable[[], None] = lambda: None


def in_turn(runs: Mapping[str, Callable[[], float]]) -> Callable[[list[str]], Any]:
    """A round in which each contender runs alone, one after another."""

    def round(order: list[str]) -> Iterable[tuple[str, float]]:
        for name in order:
            yield name, runs[name]()

    return round


def bench(names: list[str], folder: Path, rounds: int | None = None) -> int:
    """Measure workloads (all, if none is named) and write ``<folder>/<name>.csv`` for each.

    Raises:
        RequestError: an unknown workload, no rounds, or a contender that does not run.
    """
    wanted = [name.lower() for name in names] or list(WORKLOADS)
    for name in wanted:
        if name not in WORKLOADS:
            raise RequestError(f"unknown workload {name!r}: choose from {', '.join(WORKLOADS)}")
    rounds = ROUNDS if rounds is None else rounds
    if rounds < 1:
        raise RequestError(f"--rounds must be at least 1, not {rounds}")
    tables = []
    folder.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(wanted):
        workload = named(WORKLOADS[name])()
        described = machine()  # with the load before the workload adds to it
        values = measure(workload, rounds, random.Random())
        rows = [row | described for row in judge(workload, values)]
        write_atomically(folder / f"{name}.csv", _csv(rows))
        tables.append((workload, rows))
    for workload, rows in tables:
        _print(workload, rows)
    print(f"tables: {folder}")
    return 0


def measure(workload: Workload, rounds: int, rng: random.Random) -> dict[str, list[float]]:
    """Each contender's value in each round."""
    workload.prepare()
    order = [contender.name for contender in workload.contenders]
    values: dict[str, list[float]] = {name: [] for name in order}
    units = {contender.name: contender.unit for contender in workload.contenders}
    for number in range(1, rounds + 1):
        rng.shuffle(order)
        for name, value in workload.round(list(order)):
            values[name].append(value)
            said = f"{workload.name} round {number}/{rounds}"
            unit = units[name] or workload.unit
            print(f"{said}: {name} {value:.4g} {unit}", flush=True)
    return values


def judge(workload: Workload, values: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    """One row a contender; what does not apply to it is an empty string.

    ``judged`` says what ``accept`` and ``aim`` bound, the ratio or the value, and ``meets`` which
    of the two the median meets: ``aim``, ``accept`` or ``no``.
    """
    rows = []
    for c in workload.contenders:
        unit = c.unit or workload.unit
        fewer = unit in ("s", "MiB")
        mine = values[c.name]
        theirs = zip(*(values[name] for name in c.references), strict=True)
        best = [min(them) if fewer else max(them) for them in theirs]
        ratios = [a / b for a, b in zip(mine, best, strict=True)] if best else []
        judged = statistics.median(mine if c.absolute else ratios) if c.accept else None
        row = {
            "workload": workload.name,
            "contender": c.name,
            "median": statistics.median(mine),
            "unit": unit,
            "reference": " or ".join(c.references),
            "ratio": statistics.median(ratios) if ratios else "",
            "ratio_low": min(ratios, default=""),
            "ratio_high": max(ratios, default=""),
            "rounds": len(mine),
            "judged": "" if judged is None else unit if c.absolute else "ratio",
            "accept": "" if c.accept is None else c.accept,
            "aim": "" if c.aim is None else c.aim,
            "meets": "" if judged is None else _meets(judged, c, fewer),
            "note": c.note,
        }
        rows.append(row)
    return rows


def _meets(value: float, contender: Contender, fewer: bool) -> str:
    for word in ("aim", "accept"):
        bound = getattr(contender, word)
        if bound is not None and (value <= bound if fewer else value >= bound):
            return word
    return "no"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _short(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _print(workload: Workload, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{workload.name.upper()} {workload.title}", box=None, pad_edge=False)
    table.title_justify = "left"
    table.add_column("contender", overflow="fold")
    for column in ("median", "ratio", "range"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("to", overflow="fold")
    for column in ("accept", "aim", "meets"):
        table.add_column(column, justify="right", no_wrap=True)
    colours = {"aim": "green", "accept": "green", "no": "red"}
    for row in rows:
        spread = f"{row['ratio_low']:.3g} to {row['ratio_high']:.3g}" if row["reference"] else ""
        bound = f" {row['unit']}" if row["judged"] not in ("", "ratio") else ""
        limits = (
            f"{_short(row[key])}{bound}" if row["judged"] else "" for key in ("accept", "aim")
        )
        meets = row["meets"]
        table.add_row(
            row["contender"],
            f"{_short(row['median'])} {row['unit']}",
            f"{row['ratio']:.3g}" if row["reference"] else "",
            spread,
            row["reference"],
            *limits,
            f"[{colours[meets]}]{meets}[/]" if meets else "",
        )
    print()
    Console().print(table)
