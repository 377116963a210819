"""What a tier costs before anyone starts it: parameters, FLOPs per update, and a price.

Models are built on the meta device: shapes without memory, and no data is read. A DataModule takes
part by ``example_batch(n=None)``: what its training loader yields, a tensor or a tuple of tensors
with ``n`` rows, or as many as an update takes, without reading data.
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from reproduce.cells import Cell, expand, override, without_paths
from reproduce.errors import RequestError
from reproduce.forecast import Costs
from reproduce.progress import duration
from reproduce.records import Store
from reproduce.target import Target

__all__ = ["Model", "Training", "estimate", "models", "training_flops"]

ASSUMED = 1e12  # FLOP/s where neither the records nor the user tell more

# a model costs the same whatever these are
_COST_NOTHING = {
    *("seed", "lr", "weight_decay", "optimizer", "warmup", "decay", "decay_every", "lam"),
    *("fine_tune_after", "fine_tune_lr", "freeze_order_after", "kl", "perm_seed"),
    *("damage", "damage_share"),
}


@dataclass
class Training:
    """Cells that train one model at the same cost.

    ``flops`` are those of one update on a batch of ``rows``; both are 0 where nothing is trained.
    """

    flops: int
    rows: int
    updates: int
    cells: list[Cell] = field(default_factory=list)

    @property
    def each(self) -> int:
        """FLOPs of one cell."""
        return self.flops * self.updates


@dataclass
class Model:
    """One architecture: its classes, its trainable and frozen parameters, and who trains it."""

    name: str
    trainable: int
    frozen: int
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
        share = f"{100 * more / first.trainable:.4f} %"
        yield f"  than the first such   {abs(more):,} {'more' if more > 0 else 'less'} = {share}"
    if model.frozen:
        yield f"  frozen parameters     {model.frozen:,}"
    for training in model.trainings:
        users = dict.fromkeys(t for cell in training.cells for t in asked[cell.name])
        if training.updates:
            yield f"  FLOPs per update      {training.flops:,} (batch of {training.rows:,})"
            yield f"  updates               {training.updates:,}"
            yield f"  cells                 {len(training.cells)} of {', '.join(users)}"
            yield f"  FLOPs in all          {training.each * len(training.cells):.4g}"
        else:
            yield f"  cells, untrained      {len(training.cells)} of {', '.join(users)}"
        yield f"  price                 {price.of([training])}"


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
            parts.append(
                f"{_time(seconds)} for {_many(len(to_train), 'cell')} at {speed:g} FLOP/s{how}"
            )
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
        built = _build(config, "meta")
        parameters = dict(built.model.named_parameters())
        shapes = tuple((k, p.shape, p.requires_grad) for k, p in parameters.items())
        modules = tuple((name, type(module)) for name, module in built.model.named_modules())
        counts = {True: 0, False: 0}
        for p in parameters.values():
            counts[p.requires_grad] += p.numel()
        name = " with ".join(_classes(config["model"]))
        model = found.setdefault((modules, shapes), Model(name, counts[True], counts[False]))
        flops, rows = training_flops(built, config) if trains else (0, 0)
        for cell in alike:
            key = (flops, rows, cell.updates[-1])
            same = [t for t in model.trainings if (t.flops, t.rows, t.updates) == key]
            if not same:
                same = [Training(*key)]
                model.trainings += same
            same[0].cells.append(cell)
    return list(found.values())


def training_flops(built: Any, config: Mapping[str, Any]) -> tuple[int, int]:
    """(FLOPs of one update, rows of its batch) of what ``build`` made on the meta device.

    Nothing is computed, unless the numbers themselves decide what is, as in an adaptive solver:
    then two rows are, on the CPU, and scaled to the batch.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with torch.device("meta"):
            batch = built.datamodule.example_batch()
            return _count(built, batch), _rows(batch)
    except (RuntimeError, NotImplementedError):  # what has no form there may have a fake one
        pass
    try:
        # fake tensors have no memory either, and there are random generators for their device
        with FakeTensorMode(allow_non_fake_inputs=True):
            built.model.to_empty(device="cpu")
            batch = built.datamodule.example_batch()
            return _count(built, batch), _rows(batch)
    except RuntimeError:
        built = _build(config, "cpu")
        rows = _rows(built.datamodule.example_batch())
        return round(_count(built, built.datamodule.example_batch(2)) * rows / 2), rows


def _count(built: Any, batch: Any) -> int:
    """FLOPs of one training step, forward and backward."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = built.model
    model.trainer = built.trainer
    model.log = model.log_dict = lambda *args, **kwargs: None  # they ask for a running loop
    if not model.automatic_optimization:
        model.optimizers = lambda: (_Still(), _Still())  # a generator's and its judge's
        model.manual_backward = lambda loss: loss.backward()
    if hasattr(model, "settle"):  # an update as most are, not as the first ones
        model.settle()
    # the CPU's fused attention counts as nothing; the plain one is matrix products
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        outputs = model.training_step(batch, 0)
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if model.automatic_optimization:
            loss.backward()
    return counter.get_total_flops()


class _Still:
    """An optimizer that leaves everything as it is."""

    def zero_grad(self) -> None: ...

    def step(self) -> None: ...

    @property
    def optimizer(self) -> "_Still":
        return self


def _rows(batch: Any) -> int:
    return len(batch[0] if isinstance(batch, list | tuple) else batch)


def _build(config: Mapping[str, Any], device: str) -> Any:
    """``model``, ``datamodule`` and ``trainer`` of a config, whatever machine it asks for."""
    import torch

    from reproduce.training import build, one_line

    config = override(dict(config), {})
    config["trainer"] |= {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}
    config["trainer"] |= {"precision": "32-true", "logger": False, "enable_progress_bar": False}
    try:
        with torch.device(device):
            return build(config)
    except Exception as error:
        name = config["model"]["class_path"]
        raise RequestError(f"cannot build {name}: {one_line(error)}") from error


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
