"""The report: verdicts first, then each target's evidence, as one HTML page and as Markdown.

Pure rendering. The same sections give the same bytes, and the page asks nothing of the network.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reproduce.definitions import Definition, definitions, headlines, named_in, tiers
from reproduce.progress import duration
from reproduce.records import write_atomically
from reproduce.wording import bullets, count, grid, interval, number, plain, prose, show, spread

__all__ = ["Section", "answers_table", "board", "costs_table", "overview", "write"]

_VERDICTS = ("reproduced", "contradicted", "undecided", "not comparable", "not run")
_NAMED = ("contradicted", "undecided")  # which of a target's claims an overview names
_PAPERS = {"eiw-flow": "EIW-Flow", "neural-entropy": "Neural Entropy", "simflow": "SimFlow"}
_GROUPS = {"verdicts": "Verdicts", "tables": "Units and tables", **_PAPERS}  # of definitions


@dataclass(frozen=True)
class Section:
    """What one target shows: its question, table, figure, verdicts and what it cost."""

    target: Any  # id, paper, title, question, reference, how, departures
    table: pd.DataFrame  # <target-id>.csv
    verdicts: list[Any]  # the target's rows of claims.csv, with p and holm
    figure: Path | None  # the .svg; the .png lies beside it
    cells: int
    done: int
    failed: int
    stale: tuple[str, ...]  # in words, one per record
    wall_s: float
    command: str
    costs: Mapping[str, float] = field(default_factory=dict)  # compute seconds by cell


def _papers(sections: Iterable[Section]) -> list[tuple[str, list[Section]]]:
    """Each paper's name with its sections: the known ones in their order, then any other."""
    groups: dict[str, list[Section]] = {paper: [] for paper in _PAPERS}
    for section in sections:
        groups.setdefault(section.target.paper, []).append(section)
    return [(_PAPERS.get(paper, paper), group) for paper, group in groups.items() if group]


def _claims(section: Section) -> list[dict[str, str]]:
    """The target's verdicts in words."""
    claims = []
    for v in section.verdicts:
        unit = v.unit or ""
        effect, margin, p = number(v.smallest_effect, 3), number(v.margin, 3), number(v.p, 2)
        method = [v.kind, v.method, margin and f"margin {margin}", p and f"p = {p}"]
        claims.append(
            {
                "claim": v.claim,
                "target": section.target.id,
                "statement": v.statement,
                "paper": show(v.paper_value),
                "ours": interval(v.ours, v.ci_low, v.ci_high, v.n, unit),
                "smallest visible effect": f"{effect} {unit}".strip() if effect else "",
                "verdict": v.verdict,
                "holm": {None: "", True: "survives Holm", False: "does not survive Holm"}[v.holm],
                "reason": v.reason or "",
                "method": "; ".join(word for word in method if word),
            }
        )
    return claims


def _costs(sections: Iterable[Section]) -> dict[str, float]:
    """Compute seconds by cell; one that targets share stands there once."""
    return {cell: cost for s in sections for cell, cost in s.costs.items()}


@dataclass(frozen=True)
class Answer:
    """What the evidence says of one of the suite's headline questions."""

    question: str
    claims: list[dict[str, str]]  # in words
    compute: str  # of all targets that the claims belong to, in words


def _answers(sections: Sequence[Section]) -> list[Answer]:
    """The headline questions of which a claim is judged here."""
    claims = {c["claim"]: (c, s) for s in sections for c in _claims(s)}
    answers = []
    for question, names in headlines():
        found = [claims[name] for name in names if name in claims]
        if any(claim["verdict"] in _VERDICTS[:3] for claim, _ in found):
            costs = _costs(s for _, s in found)
            words = f"{duration(sum(costs.values()))} of compute"
            answers.append(Answer(question, [claim for claim, _ in found], words))
    return answers


def answers_table(sections: Sequence[Section]) -> str:
    """The headline questions, their claims and what it cost to see, as a Markdown table."""
    rows = []
    for answer in _answers(sections):
        rows.append([answer.question, "", "", answer.compute])
        for c in answer.claims:
            verdict = f"{c['verdict']} ({c['reason']})" if c["reason"] else c["verdict"]
            rows.append([c["statement"], c["ours"], verdict, f"`{c['claim']}`"])
    labels = ("question and claims", "ours, 95 % interval", "verdict", "cost, claim")
    return grid([(label, False) for label in labels], rows) + "\n" if rows else ""


def _table(table: pd.DataFrame) -> dict[str, Any]:
    """Columns as (label, right-aligned) and rows of text; optional columns only if they speak."""
    names = list(table.columns)
    axes = names[: names.index("metric")] if "metric" in names else names
    rows = []
    for row in table.to_dict("records"):
        mean, low, high = spread(*(row.get(k) for k in ("mean", "ci_low", "ci_high")))
        paper, error = show(row.get("paper")), number(row.get("paper_error"))
        rows.append(
            {str(axis): show(row[axis]) for axis in axes}
            | {k: show(row.get(k)) for k in ("metric", "unit")}
            | {"ours": mean, "95 % interval": f"[{low}, {high}]" if low and high else ""}
            | {"paper": f"{paper} ± {error}" if paper and error.strip("0") else paper}
            | {"note": show(row.get("note")), "sd": number(row.get("sd"), 3)}
            | {"n": number(row.get("n")), "failed": number(row.get("n_failed") or None)}
            | {"source": show(row.get("paper_source"))}
        )
    optional = {"unit", "note", "failed", "source"}
    labels = [k for k in (rows[0] if rows else ()) if k not in optional or any(r[k] for r in rows)]
    right = {str(axis) for axis in axes if pd.api.types.is_numeric_dtype(table[axis])}
    right |= {"ours", "95 % interval", "paper", "sd", "n", "failed"}
    texts = [[row[label] for label in labels] for row in rows]
    return {"columns": [(label, label in right) for label in labels], "rows": texts}


def _cost(sections: Sequence[Section]) -> str:
    cells = count(sum(s.cells for s in sections), "cell")
    wall_s = sum(s.wall_s for s in sections)
    words = (
        f"{sum(s.done for s in sections)} of {cells} done, {sum(s.failed for s in sections)} "
        f"failed, {sum(len(s.stale) for s in sections)} stale; {duration(wall_s)} of compute"
    )
    costs = _costs(sections)
    shared = sum(len(s.costs) for s in sections) - len(costs)
    if not shared:
        return words
    return f"{words} ({len(costs)} cells and {duration(sum(costs.values()))} without shared ones)"


def costs_table(sections: Sequence[Section]) -> str:
    """What each paper's targets have cost so far, as a Markdown table."""
    rows = []
    for name, group in _papers(sections):
        costs = [cost for cost in _costs(group).values() if cost]
        words = duration(sum(costs)) if costs else "not run yet"
        rows.append([name, str(len(group)), str(len(costs)), words])
    labels = [("paper", False), ("targets", True), ("cells", True), ("compute", True)]
    return grid(labels, rows) + "\n"


def _summary(sections: Sequence[Section]) -> list[str]:
    """What chance and Holm have to say about the board, in words."""
    verdicts = [v for s in sections for v in s.verdicts]
    n = sum(v.verdict in _VERDICTS[:3] and v.kind != "Identity" for v in verdicts)
    if not n:
        return ["No statistical claim is judged here, so chance has no part in the verdicts."]
    words = [
        f"{count(n, 'claim')} other than identities {'is' if n == 1 else 'are'} judged here "
        "(reproduced, contradicted or undecided). Chance alone would give about "
        f"{number(0.05 * n, 3)} false verdicts among them (0.05 × {n})."
    ]
    kept = []
    for name, group in _papers(sections):
        if holm := [bool(v.holm) for s in group for v in s.verdicts if v.holm is not None]:
            kept.append(f"{sum(holm)} of {len(holm)} in {name}")
    if kept:
        words.append(f"Surviving Holm's correction within their paper: {', '.join(kept)}.")
    return words


def _flaws(sections: Sequence[Section]) -> list[tuple[str, list[str]]]:
    """What is wrong with the records, in words, and the targets that it is wrong in."""
    found = [
        ("Cells failed in", [s.target.id for s in sections if s.failed]),
        ("Records are stale in", [s.target.id for s in sections if s.stale]),
    ]
    return [(words, ids) for words, ids in found if ids]


def board(sections: list[Section]) -> str:
    """The verdict board as a Markdown table, paper by paper."""
    keys = ("statement", "paper", "ours", "smallest visible effect", "verdict")
    rows: list[list[str]] = []
    for name, group in _papers(sections):
        claims = [claim for s in group for claim in _claims(s)]
        rows += [[f"{name}: {count(len(claims), 'claim')}", *[""] * len(keys)]] if claims else []
        rows += [[f"`{c['claim']}`", *(c[k] for k in keys)] for c in claims]
    labels = ["claim", "statement", "paper's value", "ours, 95 % interval", *keys[3:]]
    table = grid([(label, False) for label in labels], rows)
    return table + "\n" if rows else "No claim yet.\n"


def overview(sections: list[Section]) -> str:
    """A row a target, as a Markdown table: its question, and its claims by verdict."""
    rows: list[list[str]] = []
    for name, group in _papers(sections):
        rows += [[f"{name}: {count(len(group), 'target')}", "", "", ""]]
        for section in group:
            slugs: dict[str, list[str]] = {verdict: [] for verdict in _VERDICTS}
            for v in section.verdicts:
                slugs[v.verdict].append(f"`{v.claim.split('/')[1]}`")
            told = [f"{len(s)} {v}" for v, s in slugs.items() if s]
            named = [f"{v}: {', '.join(slugs[v])}" for v in _NAMED if slugs[v]]
            target = section.target
            rows.append([f"`{target.id}`", target.question, ", ".join(told), "; ".join(named)])
    labels = ("target", "question", "claims", "contradicted or undecided")
    return grid([(label, False) for label in labels], rows) + "\n"


def _markdown(page: Mapping[str, Any], sections: list[Section]) -> str:
    parts = ["# Do the papers' claims hold?", f"Tier `{page['tier']}`. {page['meaning']}"]
    if short := answers_table(sections):
        parts += ["## In short", short]
    parts += ["## Verdict board", ", ".join(f"{n} {v}" for v, n in page["counts"]) + "."]
    parts += [*page["summary"], f"{page['cost']}."]
    parts += [f"{words} {', '.join(ids)}." for words, ids in page["flaws"]]
    parts.append(board(sections))
    keys = ("claim", "smallest visible effect", "verdict", "holm", "reason", "method")
    for name, group in page["papers"]:
        parts.append(f"## {name}")
        for shown in group:
            section, target = shown["section"], shown["section"].target
            parts.append(f"### {plain(target.title)} (`{target.id}`)")
            words = (target.question, target.reference, *target.how.split("\n\n"))
            parts += [plain(text) for text in words if text]
            claims = [[claim[k] for k in keys] for claim in shown["claims"]]
            parts += [grid([(k, False) for k in keys], claims)] if claims else []
            if shown["figure"]:
                parts.append(f"![{plain(target.title)}]({shown['figure'].stem}.png)")
            rows = shown["table"]["rows"]
            table = grid(shown["table"]["columns"], rows) if rows else "No row yet."
            fold = f"<details><summary>{len(rows)} rows</summary>\n\n{table}\n\n</details>"
            parts += [fold if len(rows) > 24 else table, f"{shown['cost']}."]
            parts += bullets("Stale records:", section.stale)
            parts += bullets("Departures from the paper:", target.departures)
            parts.append(f"Repeat it: `{section.command}`")
    parts.append("## Definitions")
    for name, group in page["definitions"]:
        parts.append(f"### {name}")
        parts.append("\n".join(_plain_definition(d) for d in group))
    parts += bullets("## Provenance", [f"{k}: {v}" for k, v in page["provenance"].items()])
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _plain_definition(d: Definition) -> str:
    names = f" ({', '.join(f'`{name}`' for name in d.names)})" if d.names else ""
    return f"- {d.term}{names}: {plain(d.text)}"


def _image(figure: Path) -> str:
    """A data URI: the ids of several figures cannot clash, and nothing is fetched."""
    return f"data:image/svg+xml;base64,{base64.b64encode(figure.read_bytes()).decode()}"


def write(tier: str, sections: list[Section], out: Path, provenance: dict[str, str]) -> Path:
    """Write ``report.html`` and ``report.md`` into ``out``, each at once or not at all."""
    room = Environment(autoescape=True, undefined=StrictUndefined)
    room.loader = FileSystemLoader(Path(__file__).with_name("templates"))
    room.trim_blocks = room.lstrip_blocks = True
    room.filters |= {"prose": prose, "image": _image, "sha256": _sha256}
    found = [v.verdict for s in sections for v in s.verdicts]
    page = {
        "tier": tier,
        "meaning": tiers()[tier],
        "definitions": [(name, definitions(group)) for group, name in _GROUPS.items()],
        "answers": _answers(sections),
        "counts": [(verdict, found.count(verdict)) for verdict in _VERDICTS],
        "summary": _summary(sections),
        "cost": _cost(sections),
        "flaws": _flaws(sections),
        "papers": [(name, [_shown(s) for s in group]) for name, group in _papers(sections)],
        "provenance": provenance,
    }
    write_atomically(out / "report.html", room.get_template("report.html.j2").render(page))
    write_atomically(out / "report.md", _markdown(page, sections))
    return out / "report.html"


def _sha256(script: str) -> str:
    """As a Content-Security-Policy names the one script that may run."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _shown(section: Section) -> dict[str, Any]:
    """A section as both pages show it."""
    table, target = section.table, section.target
    return {
        "section": section,
        "figure": section.figure if section.figure and section.figure.is_file() else None,
        "table": _table(table),
        "definitions": named_in(
            target.paper, table["metric"].dropna().unique() if len(table) else ()
        ),
        "claims": _claims(section),
        "cost": _cost([section]),
    }
