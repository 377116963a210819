"""eiw-cost: what Shuffle costs in parameters and time."""

from dataclasses import replace

from reproduce.eiw_flow.arms import GLOW, arm, tuned
from reproduce.target import Arm, Evaluator, Identity, Order, Pick, Target

__all__ = ["PARAMETERS", "SEEDS", "TARGETS", "TIMED", "TIMINGS", "WHAT", "side_arms"]

_EVALUATORS = "reproduce.eiw_flow.cost_evaluators"
PARAMETERS = Evaluator("parameters", 1, f"{_EVALUATORS}:parameters", data="DensityImages")
TIMINGS = Evaluator("timings", 1, f"{_EVALUATORS}:timings", data="DensityImages")
MEMORY = Evaluator("memory", 1, f"{_EVALUATORS}:memory", data="DensityImages")

SEEDS = {"smoke": 1, "small": 3, "gpu": 3, "paper": 3}
_NET = "model.init_args.net.init_args"
WHAT = ("train", "likelihood", "sample")
TIMED = {
    **{f"wall_ratio_{w}": "" for w in WHAT},
    **{
        f"{w}_{arm}{q}_ms": "ms"
        for w in WHAT
        for arm in ("shuffle", "vanilla")
        for q in ("", "_p10", "_p90")
    },
    "order_parameters": "",
    "order_percent": "%",
}
# Glow of the usual depth and width for its side, never trained
_SIDES = {"smoke": (8, 16), "small": (8, 16, 32, 64), "gpu": (8, 16, 32, 64, 128)}


def _untrained(tier: str, side: int, channels: int = 3) -> Arm:
    changes = {
        f"{_NET}.shape": [channels, side, side],
    }
    given = tuned(0, steps=1 if tier == "smoke" else 4, hidden=8 if tier == "smoke" else 64)
    made = arm("digits", "eiw", given, GLOW, changes=changes)
    return replace(made, axes={"side": side})


def side_arms(tier: str) -> list[Arm]:
    return [_untrained(tier, side) for side in _SIDES.get(tier, _SIDES["gpu"])]


COST = Target(
    id="eiw-cost",
    paper="eiw-flow",
    title="Parameters and time of Shuffle",
    question="What does Shuffle cost in parameters, and in the time of a step, a likelihood and a "
    "sample?",
    reference="T-E; section on complexity",
    config="eiw_flow",
    arms=side_arms,
    seeds=SEEDS,
    evaluators=(PARAMETERS, TIMINGS, MEMORY),
    metrics={
        "published_vanilla": "",
        "published_shuffle": "",
        "published_more": "",
        "published_percent": "%",
        **TIMED,
        "kept_shuffle_mb": "MB",
        "kept_vanilla_mb": "MB",
        "memory_ratio": "",
    },
    printed={"published_vanilla": "cost/vanilla", "published_shuffle": "cost/shuffle"},
    comparable=("published_vanilla", "published_shuffle"),
    claims=(
        Identity(
            "parameters-of-the-backbone",
            "DenseFlow-74-10 with its dequantiser has 130,647,294 trainable parameters",
            metric="published_vanilla",
            equals=130_647_294.0,
            paper="130,647,294 by the public code",
        ),
        Identity(
            "parameters-with-shuffle",
            "With Shuffle it has 130,922,462",
            metric="published_shuffle",
            equals=130_922_462.0,
            paper="130,922,462 by the public code",
        ),
        Identity(
            "a-fifth-of-a-percent",
            "Shuffle adds 275,168 parameters, 0.2106 %",
            metric="published_percent",
            equals=0.2106,
            atol=0.00005,
            unit="%",
            paper="about 270 K",
        ),
        Order(
            "training-costs-little",
            "At 32 pixels and more a training step with Shuffle takes at most 1.05 times as long",
            over=("side",),
            where={"side": (32, 64, 128)},
            less=Pick("wall_ratio_train"),
            greater=1.05,
            paper="minimal",
        ),
        Order(
            "likelihood-costs-little",
            "At 32 pixels and more a likelihood with Shuffle takes at most 1.05 times as long",
            over=("side",),
            where={"side": (32, 64, 128)},
            less=Pick("wall_ratio_likelihood"),
            greater=1.05,
        ),
        Order(
            "sampling-costs-little",
            "At 32 pixels and more a sample with Shuffle takes at most 1.05 times as long",
            over=("side",),
            where={"side": (32, 64, 128)},
            less=Pick("wall_ratio_sample"),
            greater=1.05,
        ),
        Order(
            "memory-costs-little",
            "At 32 pixels and more a training step with Shuffle keeps at most 1.05 times as much "
            "for its backward pass",
            over=("side",),
            where={"side": (32, 64, 128)},
            less=Pick("memory_ratio"),
            greater=1.05,
        ),
    ),
    figure="reproduce.eiw_flow.cost_figures:cost",
    how="The same flow with its learned orders and with its channels left alone take turns; "
    "ratios are medians over 30 turns, batch 16. Images are noise: time does not depend on them.",
)

TARGETS = (COST,)
