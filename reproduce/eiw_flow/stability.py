"""eiw-stability: orders that change while the flow learns. eiw-diffusion: what is not run."""

from dataclasses import replace
from typing import Any

from reproduce.eiw_flow.arms import RANDOM, arm
from reproduce.eiw_flow.order import LIKELIHOOD, MARGIN, ORDERS
from reproduce.eiw_flow.recipes import recipe
from reproduce.target import Arm, Equivalence, Order, Pick, Target

__all__ = ["TARGETS"]

_FROZEN = {"start": 0, "a tenth": 0.1, "never": None}
_DATA = {
    "smoke": ("digits",),
    "small": ("digits", "cifar16"),
    "gpu": ("digits", "cifar32"),
    "paper": ("cifar10",),
}


def stability_arms(tier: str) -> list[Arm]:
    """The first data set is looked at along training; the other, whose cells ``eiw-order`` has
    too, at its end."""
    first, *others = _DATA[tier]
    found = _arms(tier, first, marks=20)
    return found + [one for data in others for one in _arms(tier, data)]


def _arms(tier: str, data: str, marks: int = 0) -> list[Arm]:
    base, config = recipe(tier, data)
    steps = base["trainer.max_steps"]
    along: dict[str, Any] = {}
    if marks:
        places = {max(1, steps * i // marks) for i in range(1, marks + 1)}
        along = {"marks.updates": sorted(places)}
    found = []
    for name, share in _FROZEN.items():
        after = None if share is None else round(share * steps)
        changes = {**along, "model.init_args.freeze_order_after": after}
        found.append(_relabelled(arm(data, "eiw", base, config, changes=changes), "eiw", name))
    for mode in RANDOM[: 2 if tier == "smoke" else 5]:
        one = arm(data, mode, base, config, changes=along)
        found.append(_relabelled(one, "random", mode.removeprefix("random-")))
    return found


def _relabelled(one: Arm, order: str, frozen_after: str) -> Arm:
    axes = {"data": one.axes["data"], "order": order, "frozen_after": frozen_after}
    return replace(one, axes=axes)


STABILITY = Target(
    id="eiw-stability",
    paper="eiw-flow",
    title="Orders that change while the flow learns",
    question="Does it hurt that the learned order changes under the layers that follow it, and is "
    "an order frozen at the start just a random one?",
    reference="T-R",
    config="eiw_flow",
    arms=stability_arms,
    seeds={"smoke": 1, "small": 5, "gpu": 5, "paper": 5},
    evaluators=(LIKELIHOOD, ORDERS),
    metrics={
        "bpd": "bits/dim",
        "bpd_iw16": "bits/dim",
        "crossed_1": "channels",
        "crossed_2": "channels",
        "over_random": "bits/dim",
        "harm": "bits/dim",
        "jumps": "",
    },
    index="updates",
    derive="reproduce.eiw_flow.likelihoods:stability",
    claims=(
        Equivalence(
            "frozen-at-start-is-random",
            "An order frozen at the start needs as many bits as random permutations within 0.01",
            over=("data",),
            where={"order": "eiw", "frozen_after": "start"},
            unit="bits/dim",
            a=Pick("over_random"),
            b=0.0,
            margin=MARGIN,
        ),
        Order(
            "changing-does-not-hurt",
            "An order that goes on changing needs at most 0.01 bits more than one frozen at the "
            "start",
            over=("data", "frozen_after"),
            where={"order": "eiw", "frozen_after": ("a tenth", "never")},
            unit="bits/dim",
            less=Pick("harm"),
            greater=MARGIN,
        ),
        Order(
            "crossings-make-jumps",
            "Between marks at which more channels cross, bits rise more, over those of random "
            "permutations: rank correlation above 0",
            where={"order": "eiw", "frozen_after": "never"},
            less=0.0,
            greater=Pick("jumps"),
        ),
    ),
    figure="reproduce.eiw_flow.order_figures:stability",
    how="Glow; digits at twenty marks along training, CIFAR-10 at the end. Random permutations of "
    "the same seed are the control.",
    departures=(
        "CIFAR-10 was added after eiw-order had shown learned orders to be worse than random ones "
        "there; claims and margins are those fixed before, for digits.",
    ),
)

DIFFUSION = Target(
    id="eiw-diffusion",
    paper="eiw-flow",
    title="Shuffle in a diffusion model",
    question="Would a learned channel order help a diffusion model, as the paper suggests?",
    reference="T-Q; section 9 (open question)",
    config="eiw_flow",
    arms=lambda tier: [],
    seeds={"smoke": 1, "small": 1, "gpu": 1, "paper": 1},
    evaluators=(),
    metrics={"bpd_iw16": "bits/dim"},
    claims=(
        Order(
            "helps-diffusion",
            "A diffusion model with Shuffle needs fewer bits than one without",
            unit="bits/dim",
            less=Pick("bpd_iw16", {"mode": "eiw"}),
            greater=Pick("bpd_iw16", {"mode": "identity"}),
        ),
    ),
    figure="",
    not_run="a diffusion model has no split to put channels in order for: the paper names the "
    "idea and gives no construction",
)

TARGETS = (STABILITY, DIFFUSION)
