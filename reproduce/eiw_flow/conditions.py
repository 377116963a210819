"""What a gain depends on: eiw-difficulty, eiw-resolution, eiw-prior, eiw-corruption."""

from reproduce.eiw_flow.arms import arm
from reproduce.eiw_flow.cost import PARAMETERS, TIMED, TIMINGS, WHAT, side_arms
from reproduce.eiw_flow.cost import SEEDS as TIMING_SEEDS
from reproduce.eiw_flow.density import BITS, SEEDS
from reproduce.eiw_flow.entropy import FEATURES
from reproduce.eiw_flow.order import LIKELIHOOD, MARGIN, ORDERS
from reproduce.eiw_flow.recipes import recipe
from reproduce.target import Arm, Equivalence, Evaluator, Identity, Order, Pick, Target, Trend

__all__ = ["TARGETS"]

# ---------------------------------------------------------------------------- difficulty
PNG = Evaluator("png", 1, "reproduce.eiw_flow.evaluators:png", marks="last", data="DensityImages")
_DIFFICULTY = {
    "smoke": ("noise", "digits"),
    "small": ("noise", "digits", "mnist16", "tiny16", "cifar16"),
    "gpu": ("noise", "digits", "mnist16", "tiny16", "cifar16"),
    "paper": ("cifar10",),
}


def difficulty_arms(tier: str) -> list[Arm]:
    return [arm(d, m, *recipe(tier, d)) for d in _DIFFICULTY[tier] for m in ("identity", "eiw")]


DIFFICULTY = Target(
    id="eiw-difficulty",
    paper="eiw-flow",
    title="The gain of Shuffle by difficulty of the data",
    question="Is there more to gain from a channel order where images are harder to model, and "
    "nothing where pixels are independent?",
    reference="T-M",
    config="eiw_flow",
    arms=difficulty_arms,
    seeds={**SEEDS, "paper": 1},
    evaluators=(LIKELIHOOD, PNG, FEATURES),
    metrics={
        **BITS,
        "over_identity": "bits/dim",
        "difficulty": "bits/dim",
        "png": "bits/dim",
        "gain_rise": "",
        "R2E2_1": "",
        "gain": "%",
    },
    derive="reproduce.eiw_flow.likelihoods:difficulty",
    claims=(
        Order(
            "more-to-gain-where-harder",
            "The gain rises with the vanilla flow's bits: rank correlation above 0",
            tiers=("small", "gpu"),
            less=0.0,
            greater=Pick("gain_rise"),
        ),
        Equivalence(
            "nothing-to-gain-from-noise",
            "Independent normal pixels: the order makes no difference within 0.01",
            where={"data": "noise", "mode": "eiw"},
            tiers=("small", "gpu"),
            unit="bits/dim",
            a=Pick("over_identity"),
            b=0.0,
            margin=MARGIN,
        ),
    ),
    figure="reproduce.eiw_flow.density_figures:difficulty",
    how="Difficulty is the vanilla flow's own bits per dimension, divided by the bits of a pixel; "
    "`png` is a measure of it that needs no flow, and `gain` that of R2E2 at the first split. "
    "Noise, which costs many bits and holds no structure, has no part in the correlation; its "
    "96,000 images are each seen once, so that none is learned by heart.",
    departures=(
        "Fashion-MNIST, SVHN and CelebA are not to be had: tiny_imagenet at 16 pixels stands "
        "between MNIST and CIFAR-10.",
    ),
)

# ---------------------------------------------------------------------------- resolution
RESOLUTION = Target(
    id="eiw-resolution",
    paper="eiw-flow",
    title="The overhead of Shuffle by resolution",
    question="Does the overhead shrink as images grow?",
    reference="T-N",
    config="eiw_flow",
    arms=side_arms,
    seeds=TIMING_SEEDS,
    evaluators=(TIMINGS, PARAMETERS),
    metrics=TIMED,
    claims=(
        *(
            Trend(
                f"falls-with-resolution-{what}",
                f"The time ratio of a {what} does not rise with the side: slope below 0",
                tiers=("small", "gpu"),
                metric=f"wall_ratio_{what}",
                axis="side",
                sign=-1,
            )
            for what in WHAT
        ),
        Identity(
            "parameters-do-not-grow",
            "The order's parameters do not depend on the resolution",
            metric="order_parameters",
            equals=8136.0,  # 48 and 96 channels: solvers 1176 + 4656, guiders 1152 + 1152
        ),
    ),
    figure="reproduce.eiw_flow.cost_figures:resolution",
)

# --------------------------------------------------------------------------------- prior
_PRIORS = ("standard", "diagonal", "logistic", "mixture", "conditional")


def prior_arms(tier: str) -> list[Arm]:
    data = "cifar10" if tier == "paper" else "digits"
    key = "model.init_args.net.init_args.prior"
    return [
        arm(data, m, *recipe(tier, data), axes={"prior": p}, changes={key: p})
        for p in (_PRIORS if tier in ("small", "gpu") else ("standard", "conditional"))
        for m in ("identity", "eiw")
    ]


PRIOR = Target(
    id="eiw-prior",
    paper="eiw-flow",
    title="The gain of Shuffle under other priors",
    question="Does the order still matter if what is factored out has a learned or non-Gaussian "
    "density?",
    reference="T-O; section 9 (open question)",
    config="eiw_flow",
    arms=prior_arms,
    seeds=SEEDS,
    evaluators=(LIKELIHOOD,),
    metrics={**BITS, "over_identity": "bits/dim"},
    derive="reproduce.eiw_flow.likelihoods:against_controls",
    claims=(
        Order(
            "gain-under-every-prior",
            "Shuffle needs fewer bits than the backbone alone, whatever the prior",
            over=("prior",),
            where={"mode": "eiw"},
            unit="bits/dim",
            less=Pick("over_identity"),
            greater=0.0,
        ),
        Order(
            "conditional-prior-helps",
            "A prior that reads what is kept needs fewer bits than N(0, I)",
            over=("mode",),
            unit="bits/dim",
            less=Pick("bpd_iw16", {"prior": "conditional"}),
            greater=Pick("bpd_iw16", {"prior": "standard"}),
        ),
    ),
    figure="reproduce.eiw_flow.density_figures:priors",
)

# ---------------------------------------------------------------------------- corruption
DAMAGED = Evaluator(
    "damaged", 1, "reproduce.eiw_flow.evaluators:damaged_likelihood", data="DensityImages"
)
_SHARES = {"smoke": (0.0, 0.5), "small": (0.0, 0.1, 0.3, 0.5)}


def corruption_arms(tier: str) -> list[Arm]:
    data = "cifar10" if tier == "paper" else "digits"
    return [
        arm(
            data,
            m,
            *recipe(tier, data),
            axes={"share": p},
            changes={"data.init_args.damage_share": p},
        )
        for p in _SHARES.get(tier, _SHARES["small"])
        for m in ("identity", "eiw")
    ]


CORRUPTION = Target(
    id="eiw-corruption",
    paper="eiw-flow",
    title="The gain of Shuffle on damaged training images",
    question="Does the order still help if a share of the training images is damaged?",
    reference="T-P; section 9 (open question)",
    config="eiw_flow",
    arms=corruption_arms,
    seeds=SEEDS,
    evaluators=(LIKELIHOOD, DAMAGED, ORDERS),
    metrics={
        **BITS,
        "bpd_damaged_iw16": "bits/dim",
        "over_identity": "bits/dim",
        "Q_P_1": "",
        "Q_P_2": "",
    },
    derive="reproduce.eiw_flow.likelihoods:against_controls",
    claims=(
        Order(
            "gain-at-every-share",
            "Shuffle needs fewer bits on clean images, whatever the share of damaged ones",
            over=("share",),
            where={"mode": "eiw"},
            unit="bits/dim",
            less=Pick("over_identity"),
            greater=0.0,
        ),
        Trend(
            "damage-costs-bits",
            "The more training images are damaged, the more bits the clean ones need",
            over=("mode",),
            unit="bits/dim per share",
            metric="bpd_iw16",
            axis="share",
        ),
    ),
    figure="reproduce.eiw_flow.density_figures:corruption",
    how="Damage is a patch of half the sides pasted from another image; held-out images are "
    "scored clean and damaged.",
    departures=(
        "Of the kinds of damage only the pasted patch is run: not noise, not salt and pepper.",
    ),
)

TARGETS = (DIFFICULTY, RESOLUTION, PRIOR, CORRUPTION)
