"""eiw-invertibility: round trips, ties, and orders that outlive a reload."""

from reproduce.eiw_flow.arms import arm
from reproduce.eiw_flow.order import LIKELIHOOD, MARGIN
from reproduce.eiw_flow.recipes import recipe
from reproduce.target import Arm, Equivalence, Evaluator, Identity, Pick, Target

__all__ = ["TARGETS"]

_EVALUATORS = "reproduce.eiw_flow.cost_evaluators"
INVERSION = Evaluator("inversion", 1, f"{_EVALUATORS}:inversion", data="DensityImages")
SATURATED = Evaluator("saturated", 1, f"{_EVALUATORS}:saturated", data="DensityImages")

_CHECKED = ("identity", "random-0", "eiw", "eiw_snapshot", "param", "oracle_entropy")


def inverse_arms(tier: str) -> list[Arm]:
    data = "cifar10" if tier == "paper" else "digits"
    modes = ("identity", "eiw", "eiw_snapshot") if tier == "smoke" else _CHECKED
    return [arm(data, m, *recipe(tier, data)) for m in modes]


INVERTIBILITY = Target(
    id="eiw-invertibility",
    paper="eiw-flow",
    title="Round trips, ties and reloaded orders",
    question="Is a flow with a learned order inverted exactly, also after a reload, with the ties "
    "of a saturated solver?",
    reference="T-J",
    config="eiw_flow",
    arms=inverse_arms,
    seeds={"smoke": 1, "small": 5, "gpu": 3, "paper": 1},
    evaluators=(INVERSION, SATURATED, LIKELIHOOD),
    metrics={
        "error_single": "",
        "error_double": "",
        "orders_reloaded": "",
        "ties": "channels",
        **{
            f"{m}_{c}": ""
            for c in (248, 616)
            for m in ("zeros", "kept_as_vanilla", "finite", "error", "bijection")
        },
        "bpd_iw16": "bits/dim",
    },
    claims=(
        Identity(
            "double",
            "A round trip of a trained flow errs by less than 1e-9 in float64",
            metric="error_double",
            high=1e-9,
        ),
        Identity(
            "single",
            "A round trip of a trained flow errs by less than 1e-4 in float32",
            metric="error_single",
            high=1e-4,
        ),
        Identity(
            "reloaded",
            "Orders are the same after a reload",
            metric="orders_reloaded",
            equals=1.0,
        ),
        *(
            claim
            for c in (248, 616)
            for claim in (
                Identity(
                    f"trains-{c}",
                    f"The published solver of {c} channels trains without NaN",
                    metric=f"finite_{c}",
                    equals=1.0,
                ),
                Identity(
                    f"undone-{c}",
                    f"Its order of {c} channels is a bijection that is undone exactly",
                    metric=f"error_{c}",
                    equals=0.0,
                ),
                Identity(
                    f"saturates-{c}",
                    f"More than half of its {c} probabilities are exactly 0 in float32",
                    metric=f"zeros_{c}",
                    low=0.5,
                ),
            )
        ),
        Equivalence(
            "solver-is-a-vector",
            "Free logits instead of the solver need as many bits within 0.01",
            unit="bits/dim",
            a=Pick("bpd_iw16", {"mode": "param"}),
            b=Pick("bpd_iw16", {"mode": "eiw"}),
            margin=MARGIN,
        ),
    ),
    figure="reproduce.eiw_flow.cost_figures:inversion",
)

TARGETS = (INVERTIBILITY,)
