"""eiw-order: does it matter which channels are kept, and does learning find them?

A fixed random permutation gives a flow the same freedom as a learned one, so it is the control
that decides what learning adds.
"""

from reproduce.eiw_flow.arms import MODES, RANDOM, arm
from reproduce.eiw_flow.recipes import recipe
from reproduce.target import Arm, Equivalence, Evaluator, Order, Pick, Target

__all__ = ["LIKELIHOOD", "MARGIN", "ORDERS", "TARGETS"]

_EVALUATORS = "reproduce.eiw_flow.evaluators"
LIKELIHOOD = Evaluator("likelihood", 1, f"{_EVALUATORS}:likelihood", data="DensityImages")
ORDERS = Evaluator("orders", 1, f"{_EVALUATORS}:orders", data="DensityImages")

# The gain that the paper claims on CIFAR-10 over its own backbone: less is no difference.
MARGIN = 0.01
_BELOW = ("small", "gpu")  # where all orders are trained


def order_arms(tier: str) -> list[Arm]:
    if tier == "smoke":
        modes = ("identity", "random-0", "blocks", "eiw", "oracle_entropy", "anti_oracle")
        data = ("digits",)
    elif tier == "paper":  # the control that decides, at the authors' size
        modes, data = ("identity", "random-0", "eiw", "eiw_snapshot"), ("cifar10",)
    else:
        modes, data = MODES, {"small": ("digits", "cifar16"), "gpu": ("cifar32",)}[tier]
    return [arm(d, m, *recipe(tier, d)) for d in data for m in modes]


ORDER = Target(
    id="eiw-order",
    paper="eiw-flow",
    title="Every channel order beside random permutations",
    question="Does a learned channel order beat a random one, is low entropy first the right "
    "direction, and does the learned order follow entropy at all?",
    reference="T-L; sections 4 and 5",
    config="eiw_flow",
    arms=order_arms,
    seeds={"smoke": 1, "small": 5, "gpu": 5, "paper": 5},
    evaluators=(LIKELIHOOD, ORDERS),
    metrics={
        "bpd": "bits/dim",
        "bpd_iw16": "bits/dim",
        "over_identity": "bits/dim",
        "over_random": "bits/dim",
        "order_entropy": "",
        "order_entropy_1": "",
        "order_entropy_2": "",
        "order_entropy_over_random": "",
        "order_shape": "",
        "order_shape_1": "",
        "order_shape_2": "",
        "order_shape_over_random": "",
        "overlap_vanilla_1": "",
        "overlap_vanilla_2": "",
        "overlap_initial_1": "",
        "overlap_initial_2": "",
        "crossed_1": "channels",
        "crossed_2": "channels",
        "Q_P_1": "",
        "Q_P_2": "",
    },
    derive="reproduce.eiw_flow.likelihoods:against_controls",
    claims=(
        Order(
            "eiw-beats-random",
            "The learned order needs fewer bits than random permutations in the mean",
            over=("data",),
            where={"mode": "eiw"},
            unit="bits/dim",
            less=Pick("over_random"),
            greater=0.0,
        ),
        Equivalence(
            "eiw-is-a-random-order",
            "The learned order needs as many bits as random permutations within 0.01",
            over=("data",),
            where={"mode": "eiw"},
            unit="bits/dim",
            a=Pick("over_random"),
            b=0.0,
            margin=MARGIN,
        ),
        Order(
            "low-entropy-first",
            "Keeping the channels of low entropy needs fewer bits than keeping those of high",
            over=("data",),
            tiers=_BELOW,
            unit="bits/dim",
            less=Pick("bpd_iw16", {"mode": "oracle_entropy"}),
            greater=Pick("bpd_iw16", {"mode": "anti_oracle"}),
        ),
        Order(
            "order-follows-entropy",
            "The learned order keeps channels of low entropy: a higher rank correlation than "
            "random orders have",
            over=("data",),
            where={"mode": "eiw"},
            less=0.0,
            greater=Pick("order_entropy_over_random"),
        ),
        Order(
            "order-follows-shape",
            "The same with the entropy of channels of unit variance, which scale cannot feign",
            over=("data",),
            where={"mode": "eiw"},
            less=0.0,
            greater=Pick("order_shape_over_random"),
        ),
        Order(
            "eiw-beats-vanilla",
            "The learned order needs fewer bits than the order of the channels as they are",
            over=("data",),
            where={"mode": "eiw"},
            unit="bits/dim",
            less=Pick("over_identity"),
            greater=0.0,
        ),
        Order(
            "random-beats-vanilla",
            "A random order needs fewer bits than the order of the channels as they are",
            over=("data", "mode"),
            where={"mode": RANDOM},
            unit="bits/dim",
            less=Pick("over_identity"),
            greater=0.0,
        ),
        Order(
            "whole-blocks-beat-random",
            "A random order that keeps the four channels of a squeezed one together needs fewer "
            "bits than one that parts them",
            over=("data",),
            where={"mode": "blocks"},
            tiers=_BELOW,
            unit="bits/dim",
            less=Pick("over_random"),
            greater=0.0,
        ),
        Equivalence(
            "blocks-are-all-of-vanilla",
            "It needs as many bits as the order of the channels as they are within 0.01",
            over=("data",),
            where={"mode": "blocks"},
            tiers=_BELOW,
            unit="bits/dim",
            a=Pick("over_identity"),
            b=0.0,
            margin=MARGIN,
        ),
        Equivalence(
            "solver-is-a-vector",
            "Free logits instead of the solver need as many bits within 0.01: the solver's input "
            "says nothing",
            over=("data",),
            tiers=_BELOW,
            unit="bits/dim",
            a=Pick("bpd_iw16", {"mode": "param"}),
            b=Pick("bpd_iw16", {"mode": "eiw"}),
            margin=MARGIN,
        ),
        Equivalence(
            "code-is-method",
            "Term and solver's input as in the public code need as many bits as ours within 0.01",
            over=("data",),
            unit="bits/dim",
            a=Pick("bpd_iw16", {"mode": "eiw_snapshot"}),
            b=Pick("bpd_iw16", {"mode": "eiw"}),
            margin=MARGIN,
        ),
        Order(
            "likelihood-s-gradient-helps",
            "Logits that the likelihood trains too need fewer bits than those of the solver",
            over=("data",),
            tiers=_BELOW,
            unit="bits/dim",
            less=Pick("bpd_iw16", {"mode": "ste"}),
            greater=Pick("bpd_iw16", {"mode": "eiw"}),
        ),
        Order(
            "oracle-follows-entropy",
            "The oracle, frozen after a tenth of the updates, still keeps channels of lower "
            "entropy than random orders do at the end",
            over=("data",),
            where={"mode": "oracle_entropy"},
            tiers=_BELOW,
            less=0.0,
            greater=Pick("order_entropy_over_random"),
        ),
        Order(
            "anti-oracle-opposes-entropy",
            "The anti-oracle keeps channels of higher entropy than random orders do",
            over=("data",),
            where={"mode": "anti_oracle"},
            tiers=_BELOW,
            less=Pick("order_entropy_over_random"),
            greater=0.0,
        ),
    ),
    figure="reproduce.eiw_flow.order_figures:ladder",
    how="Backbone, its initial weights, batches and dequantisation noise are the same in every "
    "arm of a seed. Bits are the importance-weighted bound with 16 draws on held-out images. The "
    "oracle orders channels by a running spacing estimate of their entropy and stays after a "
    "tenth of the updates. Random permutations are drawn anew for each seed. Correlations are set "
    "against theirs: what is factored out is pulled to N(0, 1) by the prior, which correlates any "
    "order with entropy. `blocks`, with its two claims, was added when the other orders had shown "
    "that vanilla and reversed beat random ones: both keep squeezed channels whole.",
    departures=(
        "The rate of learning falls to a tenth for the last fifth of the updates, so that a "
        "difference of 0.01 is not lost in the scatter of the last update.",
        "Orders are sorted by logits, stably, and stored: the code sorts probabilities, of which "
        "many are 0, so that its order among them is arbitrary.",
        "For colour images, where up to 96 channels are ordered, the solver's input is 1 instead "
        "of the channel count, which saturates its softmax; eiw_snapshot keeps the count.",
        "Free logits carry the solver's input as a factor, so that the optimizer moves them as "
        "fast as a solver's.",
    ),
)

TARGETS = (ORDER,)
