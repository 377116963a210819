"""Writes answers and verdicts between marks of a Markdown file: nobody types them."""

from pathlib import Path

from reproduce.errors import RequestError
from reproduce.records import write_atomically
from reproduce.report import Section, answers_table, costs_table, overview

__all__ = ["blocks", "mark", "write_board"]


def mark(name: str, end: str) -> str:
    """The line that begins or ends a block."""
    return f"<!-- {name}: {end} -->"


def blocks(sections: list[Section]) -> dict[str, str]:
    """What is written between the marks of each name."""
    tables = {"answers": answers_table, "board": overview, "costs": costs_table}
    return {name: table(sections).strip() for name, table in tables.items()}


def write_board(path: Path, sections: list[Section]) -> None:
    """Replace what stands between the marks: headline answers, a row a target, costs.

    Raises:
        RequestError: the file has not both marks of a block.
    """
    text = path.read_text(encoding="utf-8")
    for name, table in blocks(sections).items():
        begin, end = mark(name, "begin"), mark(name, "end")
        if begin not in text or end not in text:
            raise RequestError(f"{path} has no lines {begin} and {end} to write between")
        before, rest = text.split(begin, 1)
        text = f"{before}{begin}\n\n{table}\n\n{end}{rest.split(end, 1)[1]}"
    write_atomically(path, text)
