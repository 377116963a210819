"""What the report's words mean: tiers, verdicts, units, the terms of each paper's tables; and the
questions that it answers first."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Definition", "definitions", "headlines", "named_in", "tiers"]

_ROOT = Path(__file__).parent


@dataclass(frozen=True)
class Definition:
    """A term, and the names (metrics, axes, units; ``*`` for any ending) that tables give it."""

    group: str  # verdicts, tables, or a paper
    term: str
    text: str
    names: tuple[str, ...] = ()

    @property
    def anchor(self) -> str:
        """An id for the page; a term stands once in its group."""
        return re.sub(r"\W+", "-", f"{self.group} {self.term}".lower()).strip("-")

    def covers(self, name: str) -> bool:
        return any(fnmatchcase(name, known) for known in self.names)


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@cache
def _general() -> dict[str, Any]:
    return _read(_ROOT / "templates" / "definitions.yaml")


def tiers() -> dict[str, str]:
    """What each tier is, in a sentence or two."""
    return _general()["tiers"]


@cache
def headlines() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The questions a reader comes with, each with the ids of the claims that answer it."""
    found = _read(_ROOT / "templates" / "headlines.yaml")
    return tuple((one["question"], tuple(one["claims"])) for one in found)


@cache
def definitions(group: str) -> tuple[Definition, ...]:
    """Those of ``verdicts``, of ``tables``, or of a paper; none of a paper that has no file."""
    path = _ROOT / group.replace("-", "_") / "definitions.yaml"
    found = _general().get(group) or (_read(path) if path.is_file() else [])
    return tuple(Definition(group, d["term"], d["text"], tuple(d.get("names", ()))) for d in found)


def named_in(paper: str, names: Iterable[str]) -> list[Definition]:
    """What defines these names in the paper's tables, each once, its own terms first."""
    rest, found = set(names), []
    for group in (paper, "tables"):
        found += [d for d in definitions(group) if any(map(d.covers, rest))]
        rest = {name for name in rest if not any(d.covers(name) for d in found)}
    return found
