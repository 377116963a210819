"""Targets drawn by a seed, made again into an empty folder, and compared claim by claim."""

import argparse
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd

from reproduce import papers
from reproduce.claims import judge
from reproduce.errors import RequestError
from reproduce.records import Store, read_record, write_atomically
from reproduce.tables import Observed, observe, summary_table, to_csv
from reproduce.target import Claim, Pick, Target
from reproduce.verify import RTOL, is_timing

__all__ = ["Comparison", "compare", "draw", "repeat_command"]


def repeat_command(args: argparse.Namespace) -> int:
    """Draw, make again in ``args.into``, compare, publish; 1 where they differ."""
    if not args.minutes > 0:
        raise RequestError(f"--minutes must be positive, not {args.minutes:g}")
    published = Store(args.results, papers.check_tier(args.tier))
    names = _begin(args, published)
    print(f"drawn by seed {args.seed}: {', '.join(names)}", flush=True)
    from reproduce.running import run_command

    options = {"label": None, "set": [], "seeds": None, "launcher": "local", "print": False}
    request = {"command": "run", "targets": names, "tier": args.tier, "results": args.into}
    if failed := run_command(argparse.Namespace(**request, **options, jobs=args.jobs)):
        return failed
    again = Store(args.into, args.tier)
    found = [compare(target, args.tier, published, again) for target in papers.find(names)]
    for one in found:
        print(one.summary)
    print(f"comparison: {_publish(found, args.tier, args.seed, published.results / 'repeat')}")
    return 0 if all(one.same for one in found) else 1


def _begin(args: argparse.Namespace, published: Store) -> list[str]:
    """The ids drawn, and the folder for them: a new one, or the one that this draw began."""
    note = args.into / "drawn.json"
    asked = {"seed": args.seed, "tier": args.tier, "minutes": str(args.minutes)}
    if note.exists():
        begun = json.loads(note.read_text())
        if {k: begun.get(k) for k in asked} != asked:
            raise RequestError(f"{args.into} holds another draw: choose a new folder with --into")
        return begun["targets"]
    if args.into.exists() and any(args.into.iterdir()):
        raise RequestError(f"{args.into} is not empty: choose a new folder with --into")
    names = [target.id for target in draw(args.tier, published, args.seed, args.minutes)]
    args.into.mkdir(parents=True, exist_ok=True)
    write_atomically(note, json.dumps({**asked, "targets": names}, indent=1))
    return names


def draw(tier: str, store: Store, seed: int, minutes: float = math.inf) -> list[Target]:
    """One complete target of each paper that has one.

    Args:
        seed: of the generator that draws, paper by paper in their order, from the targets' ids in
            alphabetical order.
        minutes: only targets whose published cells took at most this long, one after another.

    Raises:
        RequestError: no paper has such a target.
    """
    generator, limit = random.Random(seed), 60 * minutes
    drawn = []
    for paper in papers.PAPERS:
        there = [
            target
            for _, target in sorted(papers.targets().items())
            if target.paper == paper and _price(observe(target, tier, store)) < limit
        ]
        drawn += [generator.choice(there)] if there else []
    if not drawn:
        within = f" of less than {minutes:g} min" if minutes < math.inf else ""
        raise RequestError(f"no target{within} is complete at tier {tier} in {store.results}")
    return drawn


def _price(seen: Observed) -> float:
    """Seconds of its cells, one after another; infinite where one is missing, failed or stale."""
    done = len(seen.cells) and (seen.cells["status"] == "done").all() and not seen.stale
    return float(seen.cells["wall_s"].sum()) if done else math.inf


@dataclass(frozen=True)
class Comparison:
    """What came of making one target again.

    Attributes:
        table: one row per claim and per number of the summary table: what is published, what came
            out, whether it is the same verdict, and whether it lies within the published interval.
            A number without one (the same for every seed, or one seed) must be equal to 1e-6.
        then, now: the commits that made the records.
    """

    target: Target
    table: pd.DataFrame
    then: str
    now: str

    @property
    def same(self) -> bool:
        """All verdicts are the same and all values within; clocks and memory are not asked."""
        return bool((self.table["clock"] | (self.table["same"] & self.table["within"])).all())

    @property
    def summary(self) -> str:
        """One line that counts."""
        asked = self.table[~self.table["clock"]]
        claims, numbers = (asked[asked["kind"] == kind] for kind in ("claim", "number"))
        equal = (numbers["ours"] - numbers["again"]).abs() <= 1e-9 * numbers["ours"].abs()
        clocks = int(self.table["clock"].sum())
        return (
            f"{self.target.id}: {int(claims['same'].sum())} of {len(claims)} verdicts the same, "
            f"{int(claims['within'].sum())} of their values and {int(numbers['within'].sum())} of "
            f"{len(numbers)} numbers within the published intervals "
            f"({int(equal.sum())} equal to nine digits); {clocks} of clocks or memory not asked; "
            f"commit {self.then} then, {self.now} now"
        )


def compare(target: Target, tier: str, published: Store, again: Store) -> Comparison:
    """Compare what the records of two folders say of a target.

    Raises:
        RequestError: a cell is missing, failed or stale in one of them.
    """
    before, after = (observe(target, tier, store) for store in (published, again))
    for seen, store in ((before, published), (after, again)):
        if not math.isfinite(_price(seen)):
            raise RequestError(
                f"{target.id} is not complete at tier {tier} in {store.results}: "
                f"make {target.id} TIER={tier} RESULTS={store.results}"
            )
    rows = [*_claims(before, after), *_numbers(before, after)]
    return Comparison(
        target,
        pd.DataFrame(rows).assign(target=target.id)[_COLUMNS],
        *(_commits(seen, store) for seen, store in ((before, published), (after, again))),
    )


_COLUMNS = (
    "target kind what ours ci_low ci_high verdict again again_verdict same within clock".split()
)


def _claims(before: Observed, after: Observed) -> Iterator[dict[str, object]]:
    target = before.target
    claims = {f"{target.id}/{c.slug}": c for c in target.claims}
    for then, now in zip(judge(before), judge(after), strict=True):
        ours, again, low, high = (
            math.nan if v is None else v for v in (then.ours, now.ours, then.ci_low, then.ci_high)
        )
        same = then.verdict == now.verdict
        yield {
            "kind": "claim",
            "what": then.claim,
            "ours": ours,
            "ci_low": low,
            "ci_high": high,
            "verdict": then.verdict,
            "again": again,
            "again_verdict": now.verdict,
            "same": same,
            # an identity has its own tolerance
            "within": _within(ours, low, high, again) or (then.kind == "Identity" and same),
            "clock": any(is_timing(target, metric) for metric in _metrics(claims[then.claim])),
        }


def _metrics(claim: Claim) -> Iterator[str]:
    """What a claim rests on."""
    for field in fields(claim):
        value = getattr(claim, field.name)
        if isinstance(value, Pick):
            yield value.metric
        elif field.name == "metric":
            yield value


def _numbers(before: Observed, after: Observed) -> Iterator[dict[str, object]]:
    keys = [*before.keys, "metric"]
    then, now = (
        summary_table(seen).set_index(keys)["mean ci_low ci_high".split()]
        for seen in (before, after)
    )
    both = then.join(now["mean"].rename("again"), how="outer")
    for at, row in both.iterrows():
        named = dict(zip(keys, at if isinstance(at, tuple) else (at,), strict=True))
        metric = str(named.pop("metric"))
        where = ", ".join(f"{k}={v}" for k, v in named.items() if not pd.isna(v))
        yield {
            "kind": "number",
            "what": f"{metric} ({where})" if where else metric,
            "ours": row["mean"],
            "ci_low": row["ci_low"],
            "ci_high": row["ci_high"],
            "verdict": "",
            "again": row["again"],
            "again_verdict": "",
            "same": True,
            "within": _within(row["mean"], row["ci_low"], row["ci_high"], row["again"]),
            "clock": is_timing(before.target, metric),
        }


def _within(ours: float, low: float, high: float, again: float) -> bool:
    """Whether a value made again agrees with the published one."""
    if math.isnan(ours) or math.isnan(again):
        return math.isnan(ours) and math.isnan(again)
    return low <= again <= high or bool(np.isclose(again, ours, rtol=RTOL, atol=1e-12))


def _commits(seen: Observed, store: Store) -> str:
    """The commits of the cells' records, the most frequent first."""
    folder = store.root / "records" / seen.target.paper
    found = [read_record(folder / f"{name}.json") for name in seen.cells["cell"]]
    shas = pd.Series([(r or {}).get("git_sha") or "unknown" for r in found])
    return " and ".join(str(sha)[:12] for sha in shas.value_counts().index)


def _publish(found: list[Comparison], tier: str, seed: int, folder: Path) -> Path:
    """Write ``<tier>.csv``, all rows, and ``<tier>.md``, a line per target; return the latter."""
    path = folder / f"{tier}.md"
    to_csv(pd.concat([c.table for c in found], ignore_index=True), path.with_suffix(".csv"))
    lines = [
        f"# Made again at tier {tier}: targets drawn by seed {seed}",
        "",
        "Each was run once more, into an empty folder; every claim and number stands in "
        f"[{tier}.csv]({tier}.csv).",
        "",
        *(f"- {c.summary}: **{'agrees' if c.same else 'differs'}**" for c in found),
    ]
    write_atomically(path, "\n".join([*lines, ""]))
    return path
