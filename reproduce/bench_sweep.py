"""W6: a target's cells through the suite, against one `entroflow fit` after another."""

import tempfile
from pathlib import Path

from reproduce.bench import Contender, Workload, in_turn
from reproduce.bench_startup import command, into
from reproduce.cells import Cell, expand
from reproduce.papers import targets

__all__ = ["sweep"]

TARGET, TIER, SEEDS = "ne-epochs", "smoke", 5
SUITE, LOOP = "reproduce run", "entroflow fit loop"
LOOPED = 3  # cells of the loop: one of each arm, for every further one costs as much


def sweep() -> Workload:
    """Cells per hour, everything between a command and its end included."""
    return Workload(
        name="w6",
        title=f"sweep: {SEEDS} seeds of {TARGET} at tier {TIER}",
        unit="cells/h",
        contenders=(
            Contender(
                SUITE,
                LOOP,
                3.0,
                6.0,
                note="all cells, all cores: start, training, marks, measures, tables, report",
            ),
            Contender(
                LOOP,
                note=f"{LOOPED} cells one by one: start, training, marks, validation, log; "
                "measures nothing",
            ),
        ),
        round=in_turn({SUITE: _suite, LOOP: _loop}),
        prepare=lambda: command(["-c", "import reproduce.training"]),  # into the page cache
    )


def _cells() -> list[Cell]:
    return expand(targets()[TARGET], TIER, SEEDS)


def _suite() -> float:
    with tempfile.TemporaryDirectory() as folder:
        args = [TARGET, "--tier", TIER, "--seeds", str(SEEDS), "--results", folder]
        took = command(["-m", "reproduce", "run", *args])
    return 3600 * len(_cells()) / took


def _loop() -> float:
    import yaml

    cells, took = _cells()[:LOOPED], 0.0
    for cell in cells:
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "cell.yaml"
            config.write_text(yaml.safe_dump(dict(cell.config)))
            args = ["-m", "reproduce.cli", "fit", "-c", str(config), *into(folder)]
            took += command(args)
    return 3600 * len(cells) / took
