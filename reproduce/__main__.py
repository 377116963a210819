"""The suite's command line: list, run, status, tables, report, data. Answers at once."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from reproduce.errors import RequestError

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise RequestError(f"{message}; `python -m reproduce --help` shows the commands")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m reproduce", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)

    def add(name: str, help: str, targets: str = "") -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help)
        if targets:
            command.add_argument("targets", nargs=targets, metavar="TARGET", default=["all"])
        if name not in ("list", "data"):
            command.add_argument("--tier", default="smoke", help="smoke, small, gpu or paper")
            command.add_argument("--results", default="results", type=Path, metavar="DIR")
        return command

    add("list", "the targets and their claims").add_argument("--json", action="store_true")
    run = add("run", "train and measure what is missing, then judge", targets="+")
    run.add_argument("--seeds", type=int, metavar="N", help="the first N of the paper's seeds")
    run.add_argument("--jobs", type=int, metavar="N", help="worker processes (default: cores)")
    run.add_argument("--launcher", default="local", help="local")
    run.add_argument("--print", action="store_true", help="only say what would run")
    add("status", "cells done, missing, failed and stale", targets="*")
    add("tables", "rebuild the CSV tables from the records", targets="*")
    report = add("report", "rebuild tables, figures, verdicts and report", targets="*")
    report.add_argument("--board", type=Path, metavar="FILE", help="write the board into FILE too")
    add("data", "read and verify data sources").add_argument(
        "sources", nargs="+", metavar="SOURCE"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is that of the contract: 0 done, 1 a cell failed, 2 a wrong
    request, told in one line."""
    try:
        args = _parser().parse_args(argv)
        return globals()[f"_{args.command}"](args)
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on where it was", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"error: {error}: free some space or make the folder writable", file=sys.stderr)
        return 2


def _list(args: argparse.Namespace) -> int:
    from reproduce.papers import targets

    if args.json:
        known = [
            {
                "id": t.id,
                "paper": t.paper,
                "title": t.title,
                "reference": t.reference,
                "seeds": dict(t.seeds),
                "claims": [
                    {"id": f"{t.id}/{c.slug}", "kind": c.kind, "statement": c.statement}
                    for c in t.claims
                ],
            }
            for t in targets().values()
        ]
        print(json.dumps(known, indent=1))
        return 0
    for t in targets().values():
        print(f"{t.id}  ({t.reference})\n  {t.question}")
        print("  seeds: " + ", ".join(f"{n} at {tier}" for tier, n in t.seeds.items()))
        for c in t.claims:
            print(f"    {c.slug:24} {c.kind:12} {c.statement}")
    return 0


def _chosen(args: argparse.Namespace):
    from reproduce.papers import check_tier, find
    from reproduce.records import Store

    store = Store(args.results, check_tier(args.tier))
    return find(args.targets), store


def _run(args: argparse.Namespace) -> int:
    from reproduce.launchers import plan, run_local
    from reproduce.progress import Progress

    targets, store = _chosen(args)
    if args.launcher != "local":
        raise RequestError(f"unknown launcher {args.launcher!r}: choose local")
    if args.jobs is not None and args.jobs < 1:
        raise RequestError(f"--jobs must be at least 1, not {args.jobs}")
    if not args.print:
        store.require_writable()
    jobs, total = plan(targets, args.tier, args.seeds, store, adopt=not args.print)
    if args.print:
        for job in jobs:
            print(f"{job.cell.name}  {' '.join(job.targets)}")
        print(f"{len(jobs)} of {total} cells to run")
        return 0
    _require_gpu(jobs)
    failed = 0
    if jobs:
        print(f"{len(jobs)} of {total} cells to run at tier {args.tier}", flush=True)
        n = args.jobs or _cores()
        weights = {job.cell.name: job.weight for job in jobs}
        with Progress(total, total - len(jobs), weights) as progress:
            failed = run_local(jobs, store, args.results, n, progress)
    else:
        print(f"all {total} cells are done at tier {args.tier}", flush=True)
    _show(args, targets, store)
    return 1 if failed else 0


def _require_gpu(jobs) -> None:
    """Raise RequestError if a cell asks for a GPU and there is none."""
    if any(job.cell.config["trainer"]["accelerator"] in ("gpu", "cuda") for job in jobs):
        import torch

        if not torch.cuda.is_available():
            raise RequestError("these cells need a GPU and there is none: choose --tier small")


def _cores() -> int:
    # the cores we may use, which in a container or a job are fewer than there are
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _report(args: argparse.Namespace) -> int:
    targets, store = _chosen(args)
    store.require_writable()
    sections = _show(args, targets, store)
    if args.board:
        from reproduce.board import write_board

        write_board(args.board, sections)
    return 0


def _tables(args: argparse.Namespace) -> int:
    targets, store = _chosen(args)
    store.require_writable()
    from reproduce.publish import publish_tables

    publish_tables(targets, args.tier, store)
    return 0


def _show(args: argparse.Namespace, targets, store):
    """Publish, and print the verdicts of the chosen targets."""
    from reproduce.console import print_verdicts
    from reproduce.publish import publish

    made_by = f"python -m reproduce report --tier {args.tier}"
    sections, report = publish(targets, args.tier, store, made_by)
    ids = {t.id for t in targets}
    print_verdicts([s for s in sections if s.target.id in ids])
    print(f"report: {report}")
    return sections


def _status(args: argparse.Namespace) -> int:
    from reproduce.tables import observe

    targets, store = _chosen(args)
    for target in targets:
        seen = observe(target, args.tier, store)
        counts = seen.cells["status"].value_counts()
        words = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
        words += f", {len(seen.stale)} stale" if seen.stale else ""
        print(f"{target.id:16} {len(seen.cells)} cells: {words}")
        wrong = seen.cells[seen.cells["error"] != ""]
        for line in (*(f"{r.cell}: {r.error}" for r in wrong.itertuples()), *seen.stale):
            print(f"    {line}")
    return 0


def _data(args: argparse.Namespace) -> int:
    from datamodules.sources import DataError, verify

    for source in args.sources:
        try:
            for line in verify(source):
                print(line)
        except DataError as error:
            raise RequestError(str(error)) from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
