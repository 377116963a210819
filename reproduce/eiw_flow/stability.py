"""eiw-stability: orders that change while the flow learns. eiw-diffusion: what is not run."""

from dataclasses import replace

from reproduce.eiw_flow.arms import RANDOM, arm
from reproduce.eiw_flow.order import LIKELIHOOD, MARGIN, ORDERS
from reproduce.eiw_flow.recipes import recipe
from reproduce.target import Arm, Equivalence, Order, Pick, Target

__all__ = ["TARGETS"]

_FROZEN = {"start": 0, "a tenth": 0.1, "never": None}


def stability_arms(tier: str) -> list[Arm]:
    base, config = recipe(tier, "cifar10" if tier == "paper" else "digits")
    data = "cifar10" if tier == "paper" else "digits"
    steps = base["trainer.max_steps"]
    marks = {"marks.updates": sorted({max(1, steps * i // 20) for i in range(1, 21)})}
    found = []
    for name, share in _FROZEN.items():
        after = None if share is None else round(share * steps)
        changes = {**marks, "model.init_args.freeze_order_after": after}
        found.append(_relabelled(arm(data, "eiw", base, config, changes=changes), "eiw", name))
    for mode in RANDOM[: 2 if tier == "smoke" else 5]:
        one = arm(data, mode, base, config, changes=marks)
        found.append(_relabelled(one, "random", mode.removeprefix("random-")))
    return found


def _relabelled(one: Arm, order: str, frozen_after: str) -> Arm:
    return replace(one, axes={"order": order, "frozen_after": frozen_after})


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
            over=("frozen_after",),
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
    how="Digits, Glow; twenty marks along training. Random permutations of the same seed are the "
    "control.",
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
