"""The commands that make records: run, verify, merge."""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from reproduce import launchers
from reproduce.cells import expand
from reproduce.commands import chosen, show
from reproduce.errors import RequestError
from reproduce.forecast import durations, forecast
from reproduce.launchers import plan
from reproduce.progress import Progress
from reproduce.provenance import cores
from reproduce.ranks import require_gpu
from reproduce.records import Store
from reproduce.target import Target

__all__: list[str] = []

LAUNCHERS = ("local", "slurm")


def run_command(args: argparse.Namespace) -> int:
    if args.launcher not in LAUNCHERS:
        known = " or ".join(LAUNCHERS)
        raise RequestError(f"unknown launcher {args.launcher!r}: choose {known}")
    if args.jobs is not None and args.jobs < 1:
        raise RequestError(f"--jobs must be at least 1, not {args.jobs}")
    wanted, store = _asked_for(args)
    if not args.print:
        store.require_writable()
    jobs, total = plan(wanted, args.tier, args.seeds, store, adopt=not args.print)
    n_workers = args.jobs or (cores() if args.launcher == "local" else max(1, len(jobs)))
    if args.print:
        for job in jobs:
            print(f"{job.cell.name}  {' '.join(job.targets)}")
        print(f"{len(jobs)} of {total} cells to run")
        return 0
    if not jobs:
        print(f"all {total} cells are done at tier {args.tier}", flush=True)
        show(wanted, store)
        return 0
    if args.launcher == "local":
        require_gpu((job.cell for job in jobs), "these cells need")
    print(forecast(jobs, args.tier, store, total, n_workers), flush=True)
    weights = durations(jobs, args.tier, store)
    with _sigterm_like_ctrl_c() as came:
        try:
            with Progress(total, total - len(jobs), weights) as progress:
                if args.launcher == "local":
                    failed = launchers.run_local(jobs, store, n_workers, progress)
                else:
                    from reproduce.cluster import run_cluster

                    failed = run_cluster(jobs, store, progress, args.jobs, args.slurm)
        except KeyboardInterrupt:
            left = len(plan(wanted, args.tier, args.seeds, store, adopt=False)[0])
            print(
                f"\nstopped: {left} of {total} cells are left at tier {args.tier}; "
                "the same command goes on where it was",
                file=sys.stderr,
            )
            return 128 + (came[0] if came else signal.SIGINT)
    show(wanted, store)
    return 1 if failed else 0


def _asked_for(args: argparse.Namespace) -> tuple[list[Target], Store]:
    """The targets and the store of a run, which may be a variant's."""
    if args.set and args.label is None:
        raise RequestError(
            "--set needs --label NAME: a variant stays apart from published records"
        )
    wanted, store = chosen(args)
    if args.label is not None:
        from reproduce.variants import check_arms, parse, remember

        changes = parse(args.set)
        check_arms(wanted, args.tier, changes)
        for target in wanted:
            expand(target, args.tier, args.seeds, changes)  # unknown keys are told before a run
        if args.print:
            store.changes = changes or store.changes
        else:
            remember(store.results, args.label, changes)
    return wanted, store


@contextmanager
def _sigterm_like_ctrl_c() -> Iterator[list[signal.Signals]]:
    """SIGTERM raises KeyboardInterrupt inside; yields the list of those that came."""
    came: list[signal.Signals] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(signal.Signals(number))
        if len(came) == 1:  # the second of a batch system must not cut short what the first began
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)


def verify_command(args: argparse.Namespace) -> int:
    from reproduce.verify import verify

    wanted, store = chosen(args)
    same = True
    for target in wanted:
        title = f"a cell of {target.id}"
        with Progress(1, 0, {title: 1.0}) as progress:

            def tell(message: dict[str, Any], progress: Progress = progress) -> None:
                if "note" in message:
                    progress.note(message["note"])
                else:
                    progress.update(0, message)

            progress.start(0, title)
            result = verify(target, store.tier, store, args.cell, args.rtol, tell)
            progress.finish(0, "done")
        print("\n".join(result.lines), flush=True)
        same &= result.same
    return 0 if same else 1


def merge_command(args: argparse.Namespace) -> int:
    from reproduce.merge import merge
    from reproduce.papers import check_tier

    store = Store(args.results, check_tier(args.tier))
    for line in merge(args.folder, args.tier, store):
        print(line)
    return 0
