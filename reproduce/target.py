"""A target, its arms, and the five kinds of claim: typed values beside the question they answer.

Nothing here computes. Target files import this module and nothing heavy, so that listing the
targets is instant.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Arm",
    "Claim",
    "Equivalence",
    "Evaluator",
    "Identity",
    "Order",
    "Pick",
    "Printed",
    "TIERS",
    "Target",
    "Trend",
    "Value",
    "named",
]

TIERS = ("smoke", "small", "gpu", "paper")


def named(call: str) -> Callable[..., Any]:
    """What ``module:function`` names, imported when it is asked for."""
    module, name = call.split(":")
    return getattr(importlib.import_module(module), name)


_STATISTICAL = ("small", "gpu", "paper")
_STATISTICS = ("slope", "spearman")


@dataclass(frozen=True)
class Evaluator:
    """``call`` ("module:function") maps (model, datamodule) to a dict of numbers and curves.

    Raise ``version`` when the numbers change meaning: records that hold an older one are stale.

    Attributes:
        marks: ``all``, or ``last`` where measuring is too dear to be repeated along training.
        data: the DataModule class whose cells it measures; any, if empty.
        tiers: where it is measured at all.
    """

    name: str
    version: int
    call: str
    marks: str = "all"
    data: str = field(default="", compare=False)
    tiers: tuple[str, ...] = field(default=TIERS, compare=False)

    @property
    def key(self) -> str:
        return f"{self.name}@{self.version}"

    def updates(self, cell: Any) -> list[int]:
        """After which of a cell's updates it measures."""
        return cell.updates if self.marks == "all" else cell.updates[-1:]


@dataclass(frozen=True)
class Arm:
    """One arm: where it stands in the table (``axes``), and the keys it changes in the config.

    ``config`` is the stem of another YAML than the target's, where an arm has its own; ``seeds``
    the most seeds it wants, where nothing in it is random.
    """

    axes: Mapping[str, Any]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    config: str = ""
    seeds: int | None = None


@dataclass(frozen=True)
class Pick:
    """One number per seed: ``metric`` where every axis has the given value.

    ``first`` and ``last`` stand for the least and the greatest value of an axis that is there.
    """

    metric: str
    at: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Printed:
    """A number of ``printed.csv``: the row with this key whose axes all match."""

    key: str


@dataclass(frozen=True)
class Claim:
    """What is claimed. ``over`` names axes: the claim must hold for each of their values.

    Attributes:
        slug: the claim's id is ``<target-id>/<slug>``.
        where: only rows with these values; a tuple of values means any of them, ``later half``
            those of at least half the greatest.
        tiers: where it is judged; elsewhere its verdict is "not comparable".
    """

    slug: str
    statement: str
    over: tuple[str, ...] = ()
    where: Mapping[str, Any] = field(default_factory=dict)
    tiers: tuple[str, ...] = _STATISTICAL
    unit: str = ""
    paper: str = ""  # the paper's own words or number, for the board

    @property
    def kind(self) -> str:
        return type(self).__name__


@dataclass(frozen=True)
class Order(Claim):
    """``less < greater`` for paired seeds."""

    less: Pick | float = 0.0
    greater: Pick | float = 0.0


@dataclass(frozen=True)
class Trend(Claim):
    """``metric`` rises (``sign=+1``) or falls along ``axis``.

    ``statistic`` is ``slope`` or ``spearman``, the rank correlation; any other is a ValueError.
    """

    metric: str = ""
    axis: str = ""
    sign: int = 1
    statistic: str = "slope"

    def __post_init__(self) -> None:
        if self.statistic not in _STATISTICS:
            known = " or ".join(_STATISTICS)
            raise ValueError(f"{self.slug}: statistic {self.statistic!r} is not {known}")


@dataclass(frozen=True)
class Value(Claim):
    """``pick`` equals the paper's number within its reading error and spread."""

    pick: Pick = Pick("")
    printed: Printed = Printed("")
    spread: float = 0.0


@dataclass(frozen=True)
class Identity(Claim):
    """Every row obeys a mathematical fact: ``low <= metric <= high``, or equals a known number.

    The tolerance of an equality is ``atol + rtol |equals| + errors * error_metric`` plus the
    reading error of a printed number.
    """

    tiers: tuple[str, ...] = TIERS
    metric: str = ""
    low: float | None = None
    high: float | None = None
    equals: float | Printed | None = None
    atol: float = 0.0
    rtol: float = 0.0
    errors: float = 0.0
    error_metric: str = ""


@dataclass(frozen=True)
class Equivalence(Claim):
    """``a`` and ``b`` differ by less than ``margin``; ``relative`` measures it in units of b."""

    a: Pick = Pick("")
    b: Pick | float = 0.0
    margin: float = 0.0
    relative: bool = False


@dataclass(frozen=True)
class Target:
    """One question of one paper, and all that is needed to answer it.

    Attributes:
        id, paper: as users type them, ``ne-epochs`` and ``neural-entropy``.
        reference: tables, figures and sections of the paper it speaks to.
        config: stem of the YAML, ``configs/<config>.<tier>.yaml``.
        arms: the grid of a tier, each arm changing keys of that YAML only.
        seeds: how many of the paper's seeds, by tier.
        evaluators: what is measured on its cells, each on those of its tiers and data.
        metrics: metric -> unit, in the order of the table; what is measured but not named here
            stays in the record.
        index: the axis along which a cell is measured several times (``updates``), or "".
        printed: metric -> key in ``printed.csv`` of the paper's numbers to set beside it.
        comparable: metrics that are the same quantity at every tier; the paper's number beside
            any other is marked "not comparable" below the paper's own tier.
        derive: ``module:function`` that makes further rows of a target's observations (a
            DataFrame as in ``tables.Observed``, and the tier): what only several cells or marks
            together show.
        figure: ``module:function`` that draws it.
        how, departures: prose for the report.
        not_run: why nothing of it is run, for a target that is listed and has no arms.
    """

    id: str
    paper: str
    title: str
    question: str
    reference: str
    config: str
    arms: Callable[[str], list[Arm]]
    seeds: Mapping[str, int]
    evaluators: tuple[Evaluator, ...]
    metrics: Mapping[str, str]
    claims: tuple[Claim, ...]
    figure: str
    index: str = ""
    derive: str = ""
    printed: Mapping[str, str] = field(default_factory=dict)
    comparable: tuple[str, ...] = ()
    how: str = ""
    departures: tuple[str, ...] = ()
    not_run: str = ""

    @property
    def package(self) -> str:
        return self.paper.replace("-", "_")

    def measured(self, cell: Any) -> tuple[Evaluator, ...]:
        """What is measured on one of its cells."""
        kind = cell.config["data"]["class_path"].split(".")[-1]
        return tuple(e for e in self.evaluators if cell.tier in e.tiers and e.data in ("", kind))
