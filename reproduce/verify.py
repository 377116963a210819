"""Runs one published cell again and compares every number with its record."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from reproduce import papers
from reproduce.cells import Cell, expand
from reproduce.errors import RequestError
from reproduce.provenance import threads_of_a_worker
from reproduce.ranks import require_gpu
from reproduce.records import Store, fit_key
from reproduce.target import Evaluator, Target
from reproduce.trust import device_kind, read

__all__ = ["LAX", "RTOL", "Result", "is_timing", "verify"]

RTOL = 1e-6  # the same kind of device, processor, torch and numpy
LAX = 1e-3
ROUNDING = 1e-12  # what is left where terms cancel

# What a clock or the memory says: no claim rests on equal values of it. A bare `_s` is no sign of
# seconds: `s` is diffusion time.
_TIMING = re.compile(r"(wall|peak_mem)(_.*)?|(.*_)?(wall|time|per)_s|.*_(ms|mb|gb)")
_CLOCKS = {"s", "ms", "min", "h", "MB", "GB", "samples/s", "updates/s"}

Record = dict[str, Any]
Send = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Result:
    """Whether a cell came out the same, and what there is to say about it, the verdict last."""

    same: bool
    lines: tuple[str, ...]


def verify(
    target: Target,
    tier: str,
    store: Store,
    cell: str | None = None,
    rtol: float | None = None,
    send: Send = lambda message: None,
) -> Result:
    """Train and measure one cell of a target again, from its record's own config, in scratch.

    Args:
        cell: its name or the beginning of it; None takes the cell that took the least time.
        rtol: the relative difference that passes; None takes ``RTOL``, or ``LAX`` where the kind
            of device, the processor, or the version of torch or numpy is another or not known.
        send: gets progress as small dicts.

    Raises:
        RequestError: no such cell; no record that is done; one that cannot be trusted or that
            older code made; data or a device that are missing here; or an impossible tolerance.
    """
    if rtol is not None and not 0 <= rtol < 1:
        raise RequestError(f"--rtol must be at least 0 and below 1, not {rtol:g}")
    mend = f"make {target.id} TIER={tier}"
    one, old = _choose(target, tier, store, cell, mend)
    evaluators = _held(target, one, old)
    fit = fit_key(target.paper)
    if fit not in old["metrics"] or not evaluators:
        raise RequestError(f"{one.name} was made by an older model or evaluators: {mend}")
    require_gpu([one], f"{one.name} needs")
    with tempfile.TemporaryDirectory(prefix="entroflow-verify-") as folder:
        new = _run(one, evaluators, target, Store(folder, tier), send)
    lines = [f"cell {one.name} of {target.id} at tier {tier}"]
    if new["status"] != "done":
        missing_here = ("DataError", "MisconfigurationException", "ImportError")
        if new["error"].startswith(missing_here):
            raise RequestError(f"{one.name} cannot run here: {new['error']}")
        return Result(False, (*lines, f"it failed: {new['error']}", "differs"))
    same, said = _compare(target, old, new, [fit, *(e.key for e in evaluators)], rtol)
    return Result(same, (*lines, *said, "verified" if same else "differs"))


# ------------------------------------------------------------------------------- choose and run
def _choose(
    target: Target, tier: str, store: Store, name: str | None, mend: str
) -> tuple[Cell, Record]:
    """The cell to run, with the config of its record, and the record.

    That config is also one that the target asks for today, whatever else a record may hold.
    """
    n_seeds = len(papers.PAPERS[target.paper][1])
    asked = {c.name: c for c in expand(target, tier, n_seeds, store.changes)}
    if name is not None and name not in asked:
        name = _whole_name(name, list(asked), target.id)
    found = []
    for today in asked.values():
        path = store.path(today)
        if name not in (None, today.name) or not path.exists():
            continue
        try:
            one, record = read(path, tier)
        except RequestError as error:
            raise RequestError(f"{error}: move it away, then {mend}") from None
        if one.sha256 != today.sha256:  # eight digits of a name can be met on purpose
            raise RequestError(f"{path}: {target.id} asks for another config: {mend}")
        found.append((one, record))
    done = [(one, record) for one, record in found if record["status"] == "done"]
    if not done:
        state = "failed" if found else "not run"
        which = f"cell {name} of {target.id} is" if name else f"the cells of {target.id} are"
        raise RequestError(f"{which} {state} at tier {tier}, nothing to verify: {mend}")
    return min(done, key=lambda pair: pair[1]["wall_s"])


def _whole_name(start: str, names: list[str], target_id: str) -> str:
    """The one name that begins so."""
    found = [n for n in names if n.startswith(start)]
    if len(found) == 1:
        return found[0]
    known = ", ".join((found or names)[:6]) + (", ..." if len(found or names) > 6 else "")
    count = f"{len(found)} cells" if found else "no cell"
    raise RequestError(f"{count} of {target_id} begin with {start!r}: choose one of {known}")


def _held(target: Target, cell: Cell, record: Record) -> tuple[Evaluator, ...]:
    """Today's evaluators whose numbers the record holds, whichever target asked for them."""
    known = papers.targets()
    users = {t.id: t for t in (target, *(known[i] for i in record["targets"] if i in known))}
    both = record["metrics"].keys() & record["curves"].keys()
    evaluators = dict.fromkeys(e for t in users.values() for e in t.measured(cell))
    return tuple(e for e in evaluators if e.key in both)


def _run(
    cell: Cell, evaluators: tuple[Evaluator, ...], target: Target, scratch: Store, send: Send
) -> Record:
    """The record of a new run, by the way and on as many threads as a worker's.

    Raises:
        RequestError: it did not come to an end.
    """
    import torch

    from reproduce.launchers import Job
    from reproduce.onecell import serve

    # a record's config has no paths; a run sets this one
    trainer = {**cell.config["trainer"], "default_root_dir": "."}
    whole = Cell(cell.paper, cell.tier, cell.seed, {}, {**cell.config, "trainer": trainer})
    job = json.loads(Job(whole, evaluators, (target.id,)).line(scratch.results))
    threads = torch.get_num_threads()
    torch.set_num_threads(threads_of_a_worker())
    try:
        end = serve(job, send)
    except RuntimeError as error:  # a cell on several devices has a process of its own
        raise RequestError(f"{error}: run verify again") from None
    finally:
        torch.set_num_threads(threads)
    record = scratch.read(whole)
    if end not in ("done", "failed") or record is None:
        raise RequestError(f"{cell.name} did not end here ({end}): free some space, run it again")
    return record


# ------------------------------------------------------------------------------------- compare
def is_timing(target: Target, metric: str) -> bool:
    """Whether a clock or the memory says a number: it is another one at each run."""
    return target.metrics.get(metric) in _CLOCKS or _TIMING.fullmatch(metric) is not None


def _compare(
    target: Target, old: Record, new: Record, keys: list[str], rtol: float | None
) -> tuple[bool, list[str]]:
    """Whether all numbers under these keys but timings agree, and what there is to say."""
    changed = _changed(old, new)
    if rtol is None:
        rtol = LAX if changed else RTOL
    before, after = _numbers(old, keys), _numbers(new, keys)
    gaps = {
        where: _difference(before.get(where, ...), after.get(where, ...))
        for where in before | after
        if not is_timing(target, where[2])
    }
    equal = sum(before.get(w, ...) == after.get(w, ...) for w in gaps)
    apart = sum(gap > rtol for gap in gaps.values())
    within = len(gaps) - equal - apart
    lines = [
        f"compared {', '.join(keys)}: {len(gaps)} numbers, {equal} equal to nine digits, "
        f"{within} within {rtol:g}, {apart} different; {len(before | after) - len(gaps)} "
        "timings not compared"
    ]
    worst = max(gaps, key=lambda w: gaps[w], default=None)
    if worst is not None and gaps[worst] > 0:
        then, now = (_said(numbers.get(worst, ...)) for numbers in (before, after))
        part, key, name, *at = worst
        place = f"{name}{at or ''} of {key} ({part})"
        lines.append(
            f"largest relative difference {gaps[worst]:.2g}: {place}, {then} then, {now} now"
        )
    exact = [
        f"{name} differ: {old[name]} then, {new[name]} now"
        for name in ("params", "data_sha256")
        if old[name] != new[name]
    ]
    lines += exact or [f"params {old['params']} and data {str(old['data_sha256'])[:12]} are equal"]
    same = "same kind of device, processor, torch and numpy"
    lines.append(f"tolerance {rtol:g}: {'; '.join(changed) or same}")
    if apart and changed:
        lines.append(
            "what changed rounds otherwise, and long training amplifies it: make repeat compares "
            "what then matters, the claims"
        )
    lines.append(f"wall time {old['wall_s']:.1f} s then, {new['wall_s']:.1f} s now")
    lines.append(f"commit {_commit(old)} then, {_commit(new)} now")
    return not apart and not exact, lines


def _numbers(record: Record, keys: list[str]) -> dict[tuple[Any, ...], Any]:
    """Every number of a record by (part, evaluator, name, index, ...)."""

    def walk(place: tuple[Any, ...], node: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
        if isinstance(node, list):
            for i, value in enumerate(node):
                yield from walk((*place, i), value)
        else:
            yield place, node

    return dict(
        pair
        for part in ("metrics", "curves")
        for key in keys
        for name, node in record[part].get(key, {}).items()
        for pair in walk((part, key, name), node)
    )


def _difference(a: Any, b: Any) -> float:
    """Relative to the greater; infinite where only one is a number or is there at all."""
    if a == b:
        return 0.0
    if not all(isinstance(v, int | float) for v in (a, b)):
        return float("inf")
    gap = abs(a - b)
    return gap / max(abs(a), abs(b)) if gap > ROUNDING else 0.0


def _said(value: Any) -> str:
    return "absent" if value is ... else "null" if value is None else f"{value:.9g}"


def _changed(old: Record, new: Record) -> list[str]:
    """What may move the last digits: kind of device, processor, precision, torch, numpy."""
    pairs = {
        "device": (device_kind(old), device_kind(new)),
        "processor": (old.get("processor"), new.get("processor")),
        "precision": (old["precision"], new["precision"]),
    }
    for name in ("torch", "numpy"):
        pairs[name] = (old["packages"].get(name), new["packages"].get(name))
    return [
        f"{name} {then or 'unknown'} then, {now or 'unknown'} now"
        for name, (then, now) in pairs.items()
        if then != now
    ]


def _commit(record: Record) -> str:
    changed = " with changes" if record["dirty"] else ""
    return f"{(record['git_sha'] or 'unknown')[:12]}{changed}"
