"""The model card: what a trained model is, what was measured, and what it is not good for."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reproduce import papers
from reproduce.cells import expand
from reproduce.progress import duration
from reproduce.target import Claim, Target
from reproduce.wording import number

__all__ = ["card"]


@dataclass(frozen=True)
class _Paper:
    name: str
    title: str
    arxiv: str
    what: str
    use: str


_PAPERS = {
    "neural-entropy": _Paper(
        "Neural Entropy",
        "Neural Entropy",
        "2409.03817",
        "A diffusion model whose network is zero where nothing needs to be remembered",
        "the entropy it stores and bounds on log-densities "
        "(`lightning_modules.neural_entropy.estimators`), and samples (`sampling`)",
    ),
    "eiw-flow": _Paper(
        "EIW-Flow",
        "Entropy-Informed Weighting Channel Normalizing Flow for Deep Generative Models",
        "2407.04958",
        "A multi-scale normalizing flow over integer images",
        "bounds on log-probabilities (`importance_bound`), samples (`sample`), and the order in "
        "which it factors channels out (`net.orders`)",
    ),
    "simflow": _Paper(
        "SimFlow",
        "SimFlow: Simplified and End-to-End Training of Latent Normalizing Flows",
        "2512.04084",
        "An autoregressive flow on the latents of a VAE, or on pixels",
        "reconstructions (`reconstruct`), samples (`sample`), and log-densities of latents "
        "(`encoded`)",
    ),
}
_LIMITS = {
    "smoke": "Tier `smoke` shows that everything runs, with a tiny network and a few updates: "
    "nothing that it measures speaks to the paper.",
    "small": "A smaller network, less data or fewer updates than the paper's: its numbers are not "
    "comparable with printed ones.",
    "gpu": "Less training than in the paper: its numbers are not comparable with printed ones.",
    "paper": "The paper's size and recipe, as far as they are known; the report names departures.",
}
_NOT_CIFAR10 = ("cifar10_lossless", "cifar10_jpeg")


def card(record: Mapping[str, Any], sha256: str, changes: Mapping[str, Any]) -> str:
    """The card in Markdown, from the record of a done cell alone.

    Args:
        sha256: of the file of weights.
        changes: config keys that a user's own variant changes.
    """
    config, tier = record["config"], record["tier"]
    users = [target for target in papers.targets().values() if target.id in record["targets"]]
    paper = users[0].paper
    at = papers.PAPERS[paper][1].index(record["seed"]) + 1
    data = config["data"]["init_args"]
    room = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    room.loader = FileSystemLoader(Path(__file__).with_name("templates"))
    room.filters["plain"] = _plain
    return (
        room.get_template("card.md.j2")
        .render(
            record=record,
            sha256=sha256,
            changes=[f"`{key}`" for key in changes],
            paper=_PAPERS[paper],
            serves=[(t, _arm(t, record, changes), _judged(t, tier)) for t in users],
            model=" with ".join(f"`{name}`" for name in _classes(config["model"])),
            data=f"`{config['data']['class_path']}`: {_arguments(data)}",
            updates=config["trainer"]["max_steps"],
            averaged=any("EMA" in name for name in _classes(config["trainer"].get("callbacks"))),
            packages=", ".join(f"{k} {v}" for k, v in sorted(record["packages"].items())),
            rows=list(_rows(record, users)),
            limit=_LIMITS[tier],
            not_cifar10=data.get("source") if data.get("source") in _NOT_CIFAR10 else "",
            seeds=at if at > users[0].seeds[tier] else 0,
            number=number,
            duration=duration,
        )
        .rstrip("\n")
        + "\n"
    )


def _arm(target: Target, record: Mapping[str, Any], changes: Mapping[str, Any]) -> str:
    """Where the cell stands in the target's tables."""
    cells = expand(target, record["tier"], len(papers.PAPERS[target.paper][1]), changes)
    return next((_arguments(c.axes) for c in cells if c.name == record["cell"]), "")


def _judged(target: Target, tier: str) -> list[Claim]:
    return [claim for claim in target.claims if tier in claim.tiers]


def _rows(record: Mapping[str, Any], users: list[Target]) -> Iterator[tuple[str, float, str, str]]:
    """(metric, value, unit, evaluator) of each number that a table of these targets shows."""
    seen = set()
    for target in users:
        names = {evaluator.name for evaluator in target.evaluators}
        held = {k: v for k, v in record["metrics"].items() if k.split("@")[0] in names}
        for key, values in held.items():
            for metric, unit in target.metrics.items():
                value = values.get(metric)
                if value is not None and (metric, key) not in seen:
                    seen.add((metric, key))
                    yield metric, value, unit, key


def _classes(node: Any) -> Iterator[str]:
    """Class paths of a part of a config, the outermost first."""
    if isinstance(node, Mapping):
        if "class_path" in node:
            yield node["class_path"]
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _classes(value)


def _arguments(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in given.items() if v is not None)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, also in a table."""
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", text)
