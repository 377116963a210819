"""The papers and their targets, by name. Imports nothing heavy: `list` must be instant."""

import csv
import importlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from reproduce.errors import RequestError
from reproduce.target import TIERS, Target

__all__ = ["MODELS", "PAPERS", "check_tier", "find", "printed", "seeds", "targets"]

# paper -> (its target files in the order they are shown, its seeds)
PAPERS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "neural-entropy": (
        (
            "analytic",
            "transport",
            "bounds",
            "samples",
            "images",
            "density",
            "training",
            "datasets",
            "controls",
        ),
        (1, 7, 17, 23, 42),
    ),
    "eiw-flow": (
        (
            "density",
            "entropy",
            "quality",
            "cost",
            "sweeps",
            "growth",
            "invertibility",
            "pictures",
            "order",
            "conditions",
            "stability",
        ),
        (0, 1, 2, 3, 4),
    ),
    "simflow": (
        ("headline", "variants", "latents", "sweeps", "pixels"),
        (0, 1, 2, 3, 4),
    ),
}

# The version of each paper's model: raise it when the meaning of a trained model changes, and its
# records become stale.
MODELS = {"neural-entropy": 1, "eiw-flow": 1, "simflow": 1}


@cache
def targets() -> dict[str, Target]:
    """All targets by id, in order."""
    found: dict[str, Target] = {}
    for paper, (files, _) in PAPERS.items():
        for name in files:
            module = importlib.import_module(f"reproduce.{paper.replace('-', '_')}.{name}")
            found |= {t.id: t for t in module.TARGETS}
    return found


def seeds(target: Target, tier: str, n: int | None = None) -> tuple[int, ...]:
    """The first ``n`` seeds of the paper's list, or as many as the target takes at the tier.

    Raises:
        RequestError: more seeds than the paper's list has.
    """
    known = PAPERS[target.paper][1]
    n = target.seeds[tier] if n is None else n
    if not 1 <= n <= len(known):
        raise RequestError(f"{target.paper} has seeds {known}: ask for 1 to {len(known)}, not {n}")
    return known[:n]


def find(names: Iterable[str]) -> list[Target]:
    """Targets by id, by paper, or ``all``; each once, in order.

    Raises:
        RequestError: an unknown name, with the nearest known ones.
    """
    wanted = list(names)
    known = targets()
    for name in wanted:
        if name not in (*known, *PAPERS, "all"):
            import difflib

            near = difflib.get_close_matches(name, [*known, *PAPERS, "all"], n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else "`make list` shows them"
            raise RequestError(f"unknown target {name!r}: {hint}")
    return [t for t in known.values() if {t.id, t.paper, "all"} & set(wanted)]


def check_tier(tier: str) -> str:
    """``tier`` itself.

    Raises:
        RequestError: no such tier.
    """
    if tier not in TIERS:
        raise RequestError(f"unknown tier {tier!r}: choose one of {', '.join(TIERS)}")
    return tier


@cache
def printed(paper: str) -> tuple[dict[str, Any], ...]:
    """Rows of the paper's ``printed.csv``: key, at (axes), value, unit, error, source."""
    path = Path(__file__).parent / paper.replace("-", "_") / "printed.csv"
    rows = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            at = dict(item.split("=", 1) for item in row["where"].split(";") if item)
            rows.append(
                {
                    "key": row["key"],
                    "at": {k.strip(): _number(v.strip()) for k, v in at.items()},
                    "value": float(row["value"]),
                    "unit": row["unit"],
                    "error": float(row["reading_error"] or 0),
                    "source": row["source"],
                }
            )
    return tuple(rows)


def _number(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        return text
