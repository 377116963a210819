"""The verdicts in a terminal."""

from collections.abc import Iterable

from reproduce.report import Section
from reproduce.wording import interval

__all__ = ["print_verdicts"]

_COLOURS = {"reproduced": "green", "contradicted": "red", "undecided": "yellow"}


def print_verdicts(sections: Iterable[Section]) -> None:
    """A table a target: claim, ours with its interval, verdict."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=None, box=None, pad_edge=False, expand=False)
    table.add_column("claim", overflow="fold")
    table.add_column("ours", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for section in sections:
        cells = f"{section.done}/{section.cells} cells"
        cells += f", {section.failed} failed" if section.failed else ""
        table.add_row(f"[bold]{section.target.id}[/bold]", cells, "")
        for v in section.verdicts:
            colour = _COLOURS.get(v.verdict, "dim")
            ours = interval(v.ours, v.ci_low, v.ci_high, v.n)
            table.add_row(f"  {v.claim.split('/')[1]}", ours, f"[{colour}]{v.verdict}[/{colour}]")
    console.print(table)
