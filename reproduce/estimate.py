"""What a tier costs before anyone starts it: parameters, FLOPs per update, and a price.

Models are built on the meta device: shapes without memory, and no data is read. A part of a model
tells more of itself by ``parts()``, the number of its parameters by what they are for, and by
``from_files()``, the number of weights, by name, that it reads and never trains.
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from reproduce.cells import Cell, expand, without_paths
from reproduce.errors import RequestError
from reproduce.flops import Update, build_on, training_flops
from reproduce.forecast import Costs
from reproduce.progress import duration
from reproduce.records import Store
from reproduce.target import Target

__all__ = ["Model", "Training", "estimate", "models"]

ASSUMED = 1e12  # FLOP/s where neither the records nor the user tell more

# a model costs the same whatever these are
_COST_NOTHING = {
    *("seed", "lr", "weight_decay", "optimizer", "warmup", "decay", "decay_every", "lam"),
    *("fine_tune_after", "fine_tune_lr", "freeze_order_after", "kl", "perm_seed"),
    *("damage", "damage_share"),
}


@dataclass
class Training:
    """Cells that train one model at the same cost, which is 0 where nothing is trained."""

    update: Update
    updates: int
    cells: list[Cell] = field(default_factory=list)

    @property
    def each(self) -> int:
        """FLOPs of one cell."""
        before = self.update.before
        rest = self.updates - sum(n for _, n in before)
        return sum(flops * n for flops, n in before) + self.update.flops * rest


@dataclass
class Model:
    """One architecture: its classes, its trainable and frozen parameters, and who trains it.

    Attributes:
        parts: (depth, name, number of parameters) of its parts and of theirs.
        files: numbers of weights, by name, that are read from files and never trained.
    """

    name: str
    trainable: int
    frozen: int
    parts: list[tuple[int, str, int]]
    files: dict[str, int]
    trainings: list[Training] = field(default_factory=list)

    @property
    def axes(self) -> str:
        """Where its cells stand in the tables: ``mixture D3; process vp, vpx, sl``."""
        values: dict[str, dict[str, None]] = {}
        for cell in (c for training in self.trainings for c in training.cells):
            for axis, value in cell.axes.items():
                values.setdefault(axis, {})[str(value)] = None
        return "; ".join(f"{axis} {', '.join(seen)}" for axis, seen in values.items())


def estimate(targets: Iterable[Target], tier: str, flops: float | None, store: Store) -> str:
    """The models of a tier with parameters, FLOPs and price, in lines that nothing may cut.

    The price is in seconds of one worker at ``flops`` FLOP/s; without it, in seconds that done
    cells of the same configs took, and at ``ASSUMED`` for all others.

    Raises:
        RequestError: an impossible speed; a config that nothing can be built from.
    """
    if flops is not None and not 0 < flops < math.inf:
        raise RequestError(f"--flops must be a positive number of FLOP/s, not {flops}")
    cells: dict[str, Cell] = {}
    asked: dict[str, list[str]] = {}
    for target in targets:
        for cell in expand(target, tier):
            cells.setdefault(cell.name, cell)
            asked.setdefault(cell.name, []).append(target.id)
    price = _Price(flops, Costs(tier, store, {c.paper for c in cells.values()}), asked)
    found = models(cells.values())
    head = f"tier {tier}: {_many(len(found), 'distinct model')} in {_many(len(cells), 'cell')}"
    lines = [head, ""]
    for model in found:
        first = next(m for m in found if m.name == model.name)
        lines += [*_lines(model, first, asked, price), ""]
    trainings = [t for m in found for t in m.trainings]
    total = sum(t.each * len(t.cells) for t in trainings)
    lines += [
        f"in all: {total:.4g} FLOPs; {price.of(trainings)}",
        "FLOPs: matrix products and convolutions of training, forward and backward. Time: of one "
        "worker; what is measured after training is in recorded times alone.",
    ]
    return "\n".join(lines)


def _lines(
    model: Model, first: Model, asked: Mapping[str, list[str]], price: "_Price"
) -> Iterator[str]:
    yield f"{model.name}: {model.axes}"
    yield f"  trainable parameters  {model.trainable:,}"
    if more := model.trainable - first.trainable:
        share = f"{100 * abs(more) / first.trainable:.4f} %"
        yield f"  than the first such   {abs(more):,} {'more' if more > 0 else 'less'} = {share}"
    if model.frozen:
        yield f"  frozen parameters     {model.frozen:,}"
    for depth, name, count in model.parts:
        yield f"{'    ' + '  ' * depth + name:26}{'  ' * depth}{count:,}"
    for name, count in model.files.items():
        yield f"  frozen, from a file   {count:,} ({name})"
    for training in model.trainings:
        users = dict.fromkeys(t for cell in training.cells for t in asked[cell.name])
        if training.updates:
            yield from _work(training)
            yield f"  cells                 {len(training.cells)} of {', '.join(users)}"
            yield f"  FLOPs in all          {training.each * len(training.cells):.4g}"
        else:
            yield f"  cells, untrained      {len(training.cells)} of {', '.join(users)}"
        yield f"  price                 {price.of([training])}"


def _work(training: Training) -> Iterator[str]:
    one = training.update
    noun = "image" if one.images else "sample"
    stages = [*one.before, (one.flops, training.updates - sum(n for _, n in one.before))]
    for i, (flops, updates) in enumerate(stages, 1):
        which = f" in stage {i}" if len(stages) > 1 else ""
        yield f"  FLOPs per update      {flops:,} (batch of {one.rows:,}){which}"
        yield f"  {f'FLOPs per {noun}':20}  {round(flops / one.rows):,}"
        yield f"  updates               {updates:,}"
    if len(training.cells) > 1:
        yield f"  FLOPs of a run        {training.each:.4g}"


@dataclass(frozen=True)
class _Price:
    """Seconds of one worker: measured, or FLOPs at a stated or an assumed speed."""

    flops: float | None
    costs: Costs
    asked: Mapping[str, list[str]]

    def of(self, trainings: Iterable[Training]) -> str:
        measured: list[float] = []
        to_train: list[int] = []
        untrained = 0
        for training in trainings:
            for cell in training.cells:
                cost = None if self.flops else self.costs.of(cell, self.asked[cell.name])
                if cost is not None and not cost.rough:
                    measured.append(cost.seconds)
                elif training.each:
                    to_train.append(training.each)
                else:
                    untrained += 1
        parts = []
        if measured:
            parts.append(f"{_time(sum(measured))} for {_many(len(measured), 'cell')}, as recorded")
        if to_train:
            speed = self.flops or ASSUMED
            how = "" if self.flops else " (assumed: --flops states yours)"
            seconds = sum(to_train) / speed
            cells = _many(len(to_train), "cell")
            if len(to_train) > 1 and len(set(to_train)) == 1:
                cells += f", {_time(to_train[0] / speed)} each,"
            parts.append(f"{_time(seconds)} for {cells} at {speed:g} FLOP/s{how}")
        if untrained:
            parts.append(f"nothing to train in {_many(untrained, 'cell')}")
        return "; ".join(parts)


def _many(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _time(seconds: float) -> str:
    return duration(seconds) if seconds < 2 * 86400 else f"{seconds / 86400:,.1f} days"


def models(cells: Iterable[Cell]) -> list[Model]:
    """The distinct models of these cells, in order.

    Two models are one where classes, names and shapes of all modules and parameters are the same.

    Raises:
        RequestError: a config that nothing can be built from.
    """
    builds: dict[str, list[Cell]] = {}
    for cell in cells:
        parts = [_costly(cell.config[part]) for part in ("model", "data")]
        key = json.dumps([parts, cell.updates[-1] > 0], sort_keys=True)
        builds.setdefault(key, []).append(cell)

    found: dict[Any, Model] = {}
    for alike in _with_progress(list(builds.values())):
        config, trains = alike[0].config, alike[0].updates[-1] > 0
        built = build_on(config, "meta")
        parameters = dict(built.model.named_parameters())
        shapes = tuple((k, p.shape, p.requires_grad) for k, p in parameters.items())
        modules = tuple((name, type(module)) for name, module in built.model.named_modules())
        trainable = {k for k, p in parameters.items() if p.requires_grad}
        update = training_flops(built, config) if trains else Update()
        # what is frozen but in its own update, as a discriminator, has got a gradient there
        trainable |= {k for k, p in built.model.named_parameters() if p.grad is not None}
        count = sum(parameters[k].numel() for k in trainable)
        model = found.setdefault(
            (modules, shapes),
            Model(
                " with ".join(_classes(config["model"])),
                count,
                sum(p.numel() for p in parameters.values()) - count,
                _parts(built.model),
                _files(built.model),
            ),
        )
        for cell in alike:
            key = (update, cell.updates[-1])
            same = [t for t in model.trainings if (t.update, t.updates) == key]
            if not same:
                same = [Training(*key)]
                model.trainings += same
            same[0].cells.append(cell)
    return list(found.values())


def _parts(model: Any) -> list[tuple[int, str, int]]:
    """Of each child with parameters, where there are several, and of what a child tells of."""
    found = []
    counts = {k: sum(p.numel() for p in c.parameters()) for k, c in model.named_children()}
    several = sum(n > 0 for n in counts.values()) > 1
    for name, child in model.named_children():
        if several and counts[name]:
            found.append((0, name, counts[name]))
        told = child.parts() if hasattr(child, "parts") else {}
        found += [(int(several), part, n) for part, n in told.items()]
    return found


def _files(model: Any) -> dict[str, int]:
    """What any part tells of; such a part need not be a module."""
    found: dict[str, int] = {}
    for part in [*dict(model.named_children()).values(), *vars(model).values()]:
        found |= part.from_files() if hasattr(part, "from_files") else {}
    return found


def _costly(node: Any) -> Any:
    """A part of a config without what no cost depends on."""
    if isinstance(node, Mapping):
        kept = {k: _costly(v) for k, v in node.items() if k not in _COST_NOTHING}
        return without_paths(kept)
    return [_costly(v) for v in node] if isinstance(node, list) else node


def _classes(node: Any) -> Iterator[str]:
    """Names of the classes that a part of a config builds, outermost first."""
    if isinstance(node, Mapping):
        if "class_path" in node:
            yield node["class_path"].split(".")[-1]
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _classes(value)


def _with_progress(items: list[Any]) -> Iterable[Any]:
    """A bar on a terminal's error stream, which is gone when all are done."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if not sys.stderr.isatty():
        return items
    return track(items, "building models", console=console, transient=True)
