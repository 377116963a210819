"""eiw-entropy and eiw-gaussianity: what Shuffle keeps and factors out, in nats and in shape.

Both read features of trained flows, the cells of eiw-density.
"""

from reproduce.eiw_flow.arms import arm
from reproduce.eiw_flow.recipes import recipe
from reproduce.target import (
    Arm,
    Evaluator,
    Order,
    Pick,
    Printed,
    Target,
    Value,
)

__all__ = ["DATA", "FEATURES", "SEEDS", "TARGETS"]

_EVALUATORS = "reproduce.eiw_flow.evaluators"
FEATURES = Evaluator("features", 1, f"{_EVALUATORS}:features", data="DensityImages")
KS = Evaluator("ks", 1, f"{_EVALUATORS}:ks", data="DensityImages")

SEEDS = {"smoke": 1, "small": 5, "gpu": 5, "paper": 1}
DATA = {
    "smoke": ("digits",),
    "small": ("mnist16", "cifar16"),
    "gpu": ("cifar32",),
    "paper": ("cifar10",),
}


def feature_arms(tier: str) -> list[Arm]:
    return [
        arm(d, m, *recipe(tier, d)) for d in DATA[tier] for m in ("identity", "random-0", "eiw")
    ]


_TAGS = ("", "_knn", "_gauss")
_PER_SPLIT = {
    "E2_x": "nats",
    "E2_z": "nats",
    "E2_gap": "nats",
    "R2E2": "",
    "negentropy_x": "nats",
    "negentropy_z": "nats",
}

ENTROPY = Target(
    id="eiw-entropy",
    paper="eiw-flow",
    title="Expected entropy of what is kept and what is factored out",
    question="Has what is factored out more entropy than what is kept, with Shuffle but not "
    "without, and more so than with a random order?",
    reference="T-B; Table 1",
    config="eiw_flow",
    arms=feature_arms,
    seeds=SEEDS,
    evaluators=(FEATURES,),
    metrics={
        **{f"{m}_{k}{t}": unit for t in _TAGS for m, unit in _PER_SPLIT.items() for k in (1, 2)},
        **{f"E2_gap_{k}_std": "nats" for k in (1, 2)},
        "least_gap": "nats",
        "least_gap_std": "nats",
        "gain": "%",
        "images": "",
    },
    derive="reproduce.eiw_flow.features:gaps",
    printed={"gain": "entropy/gain"},
    claims=(
        Order(
            "factored-out-has-more",
            "Shuffle: what is factored out has more expected entropy than what is kept, at every "
            "split",
            over=("data",),
            where={"mode": "eiw"},
            unit="nats",
            less=0.0,
            greater=Pick("least_gap"),
        ),
        Order(
            "vanilla-violates",
            "Vanilla: at some split what is factored out has less than what is kept",
            over=("data",),
            where={"mode": "identity"},
            unit="nats",
            less=Pick("least_gap"),
            greater=0.0,
        ),
        Order(
            "shuffle-raises-r2e2",
            "R2E2 at the first split is higher with Shuffle than without",
            over=("data",),
            less=Pick("R2E2_1", {"mode": "identity"}),
            greater=Pick("R2E2_1", {"mode": "eiw"}),
        ),
        Order(
            "shuffle-beats-random",
            "The gap between factored out and kept at the first split is larger with Shuffle than "
            "with a random order",
            over=("data",),
            unit="nats",
            less=Pick("E2_gap_1", {"mode": "random-0"}),
            greater=Pick("E2_gap_1", {"mode": "eiw"}),
        ),
        Order(
            "shape-beats-random",
            "Standardised, so that scale is left out, that gap is larger with Shuffle than with a "
            "random order",
            over=("data",),
            unit="nats",
            less=Pick("E2_gap_1_std", {"mode": "random-0"}),
            greater=Pick("E2_gap_1_std", {"mode": "eiw"}),
        ),
        Order(
            "r2e2-beats-random",
            "R2E2 at the first split is higher with Shuffle than with a random order",
            over=("data",),
            less=Pick("R2E2_1", {"mode": "random-0"}),
            greater=Pick("R2E2_1", {"mode": "eiw"}),
        ),
        Order(
            "shape-and-not-scale",
            "Standardised, so that scale is left out, what Shuffle factors out still has more "
            "expected entropy at the first split",
            over=("data",),
            where={"mode": "eiw"},
            unit="nats",
            less=0.0,
            greater=Pick("E2_gap_1_std"),
        ),
        Order(
            "more-on-colour-images",
            "The gain of R2E2 by Shuffle is larger on CIFAR-10 than on MNIST",
            where={"mode": "eiw"},
            tiers=("small",),
            unit="%",
            less=Pick("gain", {"data": "mnist16"}),
            greater=Pick("gain", {"data": "cifar16"}),
            paper="82.25 % against 7.69 %",
        ),
        Value(
            "printed-gain",
            "CIFAR-10: the gain of R2E2 at the first split is the printed one",
            where={"data": "cifar10", "mode": "eiw"},
            tiers=("paper",),
            unit="%",
            pick=Pick("gain"),
            printed=Printed("entropy/gain"),
            paper="82.25 %",
        ),
    ),
    figure="reproduce.eiw_flow.feature_figures:entropy",
    how="Entropy of each element over the held-out images by Vasicek's spacings, by three nearest "
    "neighbours and as a Gaussian's; expected entropy is its mean over elements. Raw entropy "
    "moves with scale, so it is given standardised too.",
    departures=(
        "The paper's definitions of expected entropy and R2E2 are not available to us: R2E2 here "
        "is (E2(z) - E2(x)) / |E2(x)|, its gain a relative difference to the vanilla flow.",
    ),
)

GAUSSIANITY = Target(
    id="eiw-gaussianity",
    paper="eiw-flow",
    title="How Gaussian is what is factored out",
    question="Is what Shuffle factors out closer to N(0, 1) than what the vanilla flow does?",
    reference="T-C; Figure 5",
    config="eiw_flow",
    arms=feature_arms,
    seeds=SEEDS,
    evaluators=(KS,),
    metrics={
        f"{m}_{part}_{k}{t}": ""
        for m in ("D", "D_low", "D_high", "D_median", "D_iqr")
        for part in "zx"
        for k in (1, 2)
        for t in ("", "_std")
    },
    printed={"D_z_1": "gaussianity/D"},
    claims=(
        *(
            claim
            for k, where in ((1, "first"), (2, "second"))
            for tag, words in (("", "as it is"), ("_std", "standardised"))
            for claim in (
                Order(
                    f"closer-than-vanilla-{k}{tag.replace('_', '-')}",
                    f"KS distance of what the {where} split factors out, {words}: smaller with "
                    "Shuffle than without",
                    over=("data",),
                    less=Pick(f"D_z_{k}{tag}", {"mode": "eiw"}),
                    greater=Pick(f"D_z_{k}{tag}", {"mode": "identity"}),
                    paper="0.12 against 0.91" if not tag else "",
                ),
                Order(
                    f"closer-than-random-{k}{tag.replace('_', '-')}",
                    f"KS distance of what the {where} split factors out, {words}: smaller with "
                    "Shuffle than with a random order",
                    over=("data",),
                    less=Pick(f"D_z_{k}{tag}", {"mode": "eiw"}),
                    greater=Pick(f"D_z_{k}{tag}", {"mode": "random-0"}),
                ),
            )
        ),
        Value(
            "printed-distance",
            "CIFAR-10: the KS distance of what Shuffle factors out is the printed one",
            where={"data": "cifar10", "mode": "eiw"},
            tiers=("paper",),
            pick=Pick("D_z_1"),
            printed=Printed("gaussianity/D"),
            paper="0.12",
        ),
    ),
    figure="reproduce.eiw_flow.feature_figures:ks",
    how="Distance of the empirical distribution function of pooled elements from that of N(0, 1), "
    "as they are and after standardising each channel.",
    departures=(
        "The paper's protocol (scale, channels, number of values, standardised or not) is not "
        "known to us. No zero-mean sample of unit variance can be 0.91 away from N(0, 1), so the "
        "printed vanilla value must come from shifted features.",
    ),
)

TARGETS = (ENTROPY, GAUSSIANITY)
