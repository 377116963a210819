"""The commands that train nothing: list, status, tables, report, estimate, export, data, weights,
bench."""

import argparse
import json
from typing import Any

from reproduce.errors import RequestError
from reproduce.papers import check_tier, find, targets
from reproduce.records import Store
from reproduce.target import Target

__all__ = ["chosen", "show"]


def list_command(args: argparse.Namespace) -> int:
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


def chosen(args: argparse.Namespace) -> tuple[list[Target], Store]:
    """The targets asked for, and the store of their tier: a variant's, if there is a label."""
    results = args.results
    if getattr(args, "label", None) is not None:
        from reproduce.variants import folder_of

        results = folder_of(results, args.label)
        if args.command != "run" and not results.is_dir():
            raise RequestError(f"no variant {args.label!r} in {args.results / 'variants'}")
    store = Store(results, check_tier(args.tier))
    return find(args.targets), store


def show(chosen: list[Target], store: Store) -> list[Any]:
    """Publish, and print the verdicts of the chosen targets."""
    from reproduce.console import print_verdicts
    from reproduce.publish import publish

    made_by = f"python -m reproduce report --tier {store.tier}"
    sections, report = publish(chosen, store.tier, store, made_by)
    ids = {t.id for t in chosen}
    print_verdicts([s for s in sections if s.target.id in ids])
    print(f"report: {report}")
    return sections


def report_command(args: argparse.Namespace) -> int:
    wanted, store = chosen(args)
    store.require_writable()
    sections = show(wanted, store)
    if args.board:
        from reproduce.board import write_board

        write_board(args.board, sections)
    return 0


def tables_command(args: argparse.Namespace) -> int:
    wanted, store = chosen(args)
    store.require_writable()
    from reproduce.publish import publish_tables

    publish_tables(wanted, args.tier, store)
    return 0


def status_command(args: argparse.Namespace) -> int:
    from reproduce.tables import observe

    wanted, store = chosen(args)
    for target in wanted:
        seen = observe(target, args.tier, store)
        counts = seen.cells["status"].value_counts()
        words = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
        words += f", {len(seen.stale)} stale" if seen.stale else ""
        print(f"{target.id:16} {len(seen.cells)} cells: {words}")
        wrong = seen.cells[seen.cells["error"] != ""]
        for line in (*(f"{r.cell}: {r.error}" for r in wrong.itertuples()), *seen.stale):
            print(f"    {line}")
    return 0


def estimate_command(args: argparse.Namespace) -> int:
    from reproduce.estimate import estimate

    wanted, store = chosen(args)
    print(estimate(wanted, args.tier, args.flops, store))
    return 0


def data_command(args: argparse.Namespace) -> int:
    from datamodules.sources import DataError, obtain

    for source in args.sources:
        try:
            for line in obtain(source):
                print(line, flush=True)
        except DataError as error:
            raise RequestError(str(error)) from None
    return 0


def export_command(args: argparse.Namespace) -> int:
    _, store = chosen(args)
    from reproduce.export import export

    for line in export(args.targets, store):
        print(line, flush=True)
    return 0


def weights_command(args: argparse.Namespace) -> int:
    from datamodules.cache import DataError

    from reproduce.weights import describe, fetch, known

    if args.name is None:
        print("\n\n".join("\n".join(describe(one)) for one in known()))
        return 0
    try:
        for line in fetch(args.name):
            print(line, flush=True)
    except DataError as error:
        raise RequestError(str(error)) from None
    return 0


def bench_command(args: argparse.Namespace) -> int:
    from reproduce.bench import bench

    return bench(args.workloads, args.results / "bench", args.rounds)
