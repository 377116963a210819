"""eiw-growth and eiw-information: the paper's theorems, as far as they can be measured."""

from reproduce.eiw_flow.arms import arm
from reproduce.eiw_flow.entropy import DATA, FEATURES, SEEDS
from reproduce.eiw_flow.recipes import recipe
from reproduce.target import Arm, Evaluator, Identity, Order, Pick, Target

__all__ = ["TARGETS"]

PROBES = Evaluator(
    "information", 1, "reproduce.eiw_flow.evaluators:information", data="DensityImages"
)


def growth_arms(tier: str) -> list[Arm]:
    data = {"small": ("digits", "cifar16")}.get(tier, DATA[tier])
    return [arm(d, m, *recipe(tier, d)) for d in data for m in ("identity", "random-0", "eiw")]


_STAGES = range(4)

GROWTH = Target(
    id="eiw-growth",
    paper="eiw-flow",
    title="Expected entropy along inference",
    question="Does the expected entropy grow from stage to stage, and is it more than a growth of "
    "variance?",
    reference="T-H; Theorem 3 (section 5.3)",
    config="eiw_flow",
    arms=growth_arms,
    seeds=SEEDS,
    evaluators=(FEATURES,),
    metrics={
        **{f"E2_stage{k}_knn": "nats" for k in _STAGES},
        **{f"E2_stage{k}_std_knn": "nats" for k in _STAGES},
        **{f"variance_stage{k}": "" for k in _STAGES},
        "least_growth": "nats",
        "least_growth_std": "nats",
        "most_std": "nats",
    },
    derive="reproduce.eiw_flow.features:growth",
    claims=(
        Order(
            "grows-at-every-stage",
            "Expected entropy grows from each stage to the next",
            over=("data", "mode"),
            unit="nats",
            less=0.0,
            greater=Pick("least_growth"),
            paper="Theorem 3",
        ),
        Order(
            "grows-beyond-variance",
            "Standardised expected entropy grows from each stage to the next",
            over=("data", "mode"),
            unit="nats",
            less=0.0,
            greater=Pick("least_growth_std"),
        ),
        Identity(
            "below-the-gaussian",
            "Standardised expected entropy is at most that of N(0, 1), 1.4189 nats, within 0.02",
            metric="most_std",
            high=1.4389,
            unit="nats",
        ),
    ),
    figure="reproduce.eiw_flow.feature_figures:growth",
    how="Entropy of each element over the held-out images by three nearest neighbours, whose bias "
    "for a normal element of 300 images is 0.001 nats (0.03 by spacings).",
)

INFORMATION = Target(
    id="eiw-information",
    paper="eiw-flow",
    title="What a split gives away",
    question="Does Shuffle factor out less of what matters, by the guider's own weights, and by "
    "what can be read off the features?",
    reference="T-I; Theorem 2 (section 5.2)",
    config="eiw_flow",
    arms=growth_arms,
    seeds=SEEDS,
    evaluators=(PROBES,),
    metrics={
        f"{m}_{k}": unit
        for m, unit in (
            ("mass", ""),
            ("mass_static", ""),
            ("mass_least", ""),
            ("pixels_x", "R2"),
            ("pixels_z", "R2"),
            ("class_x", ""),
            ("class_z", ""),
        )
        for k in (1, 2)
    },
    claims=tuple(
        claim
        for k, where in ((1, "first"), (2, "second"))
        for claim in (
            Order(
                f"less-mass-{k}",
                f"At the {where} split the learned order factors out less of the guider's mass "
                "than the static order",
                over=("data",),
                where={"mode": "eiw"},
                less=Pick(f"mass_{k}"),
                greater=Pick(f"mass_static_{k}"),
                paper="Theorem 2",
            ),
            Order(
                f"pixels-readable-{k}",
                f"More of the image is read off what Shuffle keeps at the {where} split than off "
                "what the vanilla flow keeps",
                over=("data",),
                unit="R2",
                less=Pick(f"pixels_x_{k}", {"mode": "identity"}),
                greater=Pick(f"pixels_x_{k}", {"mode": "eiw"}),
            ),
            Order(
                f"pixels-readable-random-{k}",
                f"More of the image is read off what Shuffle keeps at the {where} split than off "
                "what a random order keeps",
                over=("data",),
                unit="R2",
                less=Pick(f"pixels_x_{k}", {"mode": "random-0"}),
                greater=Pick(f"pixels_x_{k}", {"mode": "eiw"}),
            ),
        )
    ),
    figure="reproduce.eiw_flow.feature_figures:information",
    how="Mass: the guider's weights summed over what is factored out, own order against the order "
    "of the channels as they are. Probes: ridge regressions of pixels, and of classes, from the "
    "features of held-out images.",
    departures=(
        "The theorem's loss is not known to us; if channels are sorted by the guider's own "
        "weights it is a tautology, so the probes carry the question.",
    ),
)

TARGETS = (GROWTH, INFORMATION)
