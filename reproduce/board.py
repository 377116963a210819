"""Writes the verdicts, a row a target, between two marks of a Markdown file: nobody types them."""

from pathlib import Path

from reproduce.errors import RequestError
from reproduce.records import write_atomically
from reproduce.report import Section, overview

__all__ = ["write_board"]

BEGIN, END = "<!-- board: begin -->", "<!-- board: end -->"


def write_board(path: Path, sections: list[Section]) -> None:
    """Replace what stands between the marks by the overview.

    Raises:
        RequestError: the file has no marks.
    """
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise RequestError(f"{path} has no lines {BEGIN} and {END} to write the board between")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    table = overview(sections).strip()
    write_atomically(path, f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")
