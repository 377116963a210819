"""sf-headline, sf-alignment, sf-resolution, sf-guidance: samples, and what makes them better."""

from typing import Any

from reproduce.simflow.arms import END_TO_END, HOME, arm, published, standard
from reproduce.simflow.measures import (
    ALIGNMENT,
    EXACTNESS,
    GENERATION,
    GUIDANCE,
    LATENTS,
    RECONSTRUCTION,
    SEEDS,
)
from reproduce.target import Arm, Equivalence, Identity, Order, Pick, Printed, Target, Value

__all__ = ["ALIGNED", "RULES", "TARGETS", "WEIGHTS", "alignment_arms", "headline_arms"]

WEIGHTS = ("0.5", "1", "2", "4", "10")
RULES = ("linear_all", "linear_deep", "score_all", "score_deep")


def _aligned(width: int, grid: int, hidden: int, layer: int) -> dict[str, Any]:
    alignment = {
        "class_path": "lightning_modules.simflow.Alignment",
        "init_args": {
            "width": width, "teacher": "conv", "grid": grid, "hidden": hidden,
            "teacher_width": 64, "seed": 0,
        },
    }  # fmt: skip
    return {"alignment": alignment, "align_at": [-1, layer]}


_DINOV2 = _aligned(1152, 16, 2048, 8)
_DINOV2["alignment"]["init_args"]["teacher"] = "dinov2"
# what an aligned arm changes, by tier
ALIGNED = {
    "smoke": _aligned(16, 4, 16, 0),
    "small": _aligned(64, 4, 128, 0),
    "gpu": _aligned(256, 8, 512, 2),
    "paper": _DINOV2,
}


# ------------------------------------------------------------------------------- headline
def headline_arms(tier: str) -> list[Arm]:
    return [published()] if tier == "paper" else [standard(HOME[tier], END_TO_END, tier)]


_JUDGED = ("gfd_classifier", "accuracy", "precision", "recall", "is_classifier")

HEADLINE = Target(
    id="sf-headline",
    paper="simflow",
    title="SimFlow, with and without guidance",
    question="Does guidance buy fidelity at the price of variety, and does it bring samples "
    "closer to real images?",
    reference="T1; Table 1",
    config="simflow",
    arms=headline_arms,
    seeds=SEEDS,
    evaluators=(*GENERATION, *GUIDANCE, RECONSTRUCTION),
    metrics={
        **{f"{m}_{w}": "" for m in _JUDGED for w in ("none", "score_deep_1", "score_deep_4")},
        **{f"gfd_classifier_score_deep_{w}": "" for w in WEIGHTS},
        "gfd_guided": "",
        "floor": "",
        "psnr": "dB",
        "rfd_classifier": "",
    },
    derive="reproduce.simflow.paired:guided",
    printed={"psnr": "headline/PSNR"},
    claims=(
        Order(
            "guidance-raises-accuracy",
            "At w = 1 more samples are of their class than without guidance",
            over=("data",),
            less=Pick("accuracy_none"),
            greater=Pick("accuracy_score_deep_1"),
        ),
        Order(
            "guidance-raises-precision",
            "At w = 1 precision is higher than without",
            over=("data",),
            less=Pick("precision_none"),
            greater=Pick("precision_score_deep_1"),
            paper="0.67 to 0.83",
        ),
        Order(
            "guidance-lowers-recall",
            "At w = 1 recall is lower than without",
            over=("data",),
            less=Pick("recall_score_deep_1"),
            greater=Pick("recall_none"),
            paper="0.62 to 0.57",
        ),
        Order(
            "some-guidance-is-closer",
            "At the weight that is best for the other seeds samples are closer to the training "
            "images than without",
            over=("data",),
            less=Pick("gfd_guided"),
            greater=Pick("gfd_classifier_none"),
            paper="13.72 to 2.15",
        ),
        Value(
            "printed-psnr",
            "ImageNet 256: PSNR of reconstructions",
            tiers=("paper",),
            pick=Pick("psnr"),
            printed=Printed("headline/PSNR"),
            spread=0.3,
        ),
    ),
    figure="reproduce.simflow.picture_figures:headline",
    how="Samples of e2e/fixed by averaged weights, 2000 (200 at smoke) at each weight of the "
    "score rule in the deep block, from the same latents and labels. `gfd_guided` is, for each "
    "seed, at that of the weights 0.5, 1, 2, 4 and 10 that is best in the mean over the others.",
    departures=(
        "The weight is chosen on 2000 samples of other seeds; the paper does not print its own.",
        "gFID, IS, precision and recall of the paper are on Inception features with 50,000 "
        "samples: not comparable with distances on a small classifier's.",
    ),
)

GUIDANCE_TARGET = Target(
    id="sf-guidance",
    paper="simflow",
    title="Rules of guidance",
    question="Which rule, in which blocks, at which weight?",
    reference="T12; section on guidance",
    config="simflow",
    arms=headline_arms,
    seeds=SEEDS,
    evaluators=GUIDANCE,
    metrics={
        **{f"{m}_none": "" for m in _JUDGED},
        **{f"{m}_{rule}_{w}": "" for m in _JUDGED for rule in RULES for w in WEIGHTS},
        **{f"finite_{rule}": "" for rule in RULES},
    },
    claims=(
        Identity(
            "score-never-diverges",
            "The score rule gives numbers at every weight up to 10",
            over=("data",),
            metric="finite_score_deep",
            equals=1.0,
        ),
        Identity(
            "score-never-diverges-anywhere",
            "So it does in all blocks",
            over=("data",),
            metric="finite_score_all",
            equals=1.0,
        ),
        *(
            Order(
                f"accuracy-rises-{rule.replace('_', '-')}",
                f"{rule.replace('_', ', ')}: at w = 1 more samples are of their class than "
                "without",
                over=("data",),
                less=Pick("accuracy_none"),
                greater=Pick(f"accuracy_{rule}_1"),
            )
            for rule in RULES
        ),
        Order(
            "all-blocks-guide-more",
            "At w = 1 guiding all blocks gives more samples of their class than guiding the deep "
            "one",
            over=("data",),
            less=Pick("accuracy_score_deep_1"),
            greater=Pick("accuracy_score_all_1"),
        ),
    ),
    figure="reproduce.simflow.figures:guidance",
    how="The paper's own rule is not known to us: these are TarFlow's (linear) and STARFlow's "
    "(score), each in every block or in the deep one alone.",
)

# ------------------------------------------------------------------------------ alignment


def alignment_arms(tier: str) -> list[Arm]:
    """At small those of sf-convergence; without alignment the cell of sf-variants."""
    if tier == "paper":
        on = published({"alignment": "REPA-E"}, ALIGNED["paper"])
        return [published({"alignment": "none"}), on]
    updates = {"gpu": 10_000}.get(tier)
    home, alone = HOME[tier], {"alignment": "none"}
    return [
        standard(home, END_TO_END, tier, alone, None, updates),
        standard(home, END_TO_END, tier, {"alignment": "REPA-E"}, ALIGNED[tier], updates),
    ]


ALIGNMENT_TARGET = Target(
    id="sf-alignment",
    paper="simflow",
    title="Alignment with a frozen teacher",
    question="Does an alignment of the flow's hidden states with a frozen network's features make "
    "samples better, and at what cost?",
    reference="T2; Table 1, REPA-E",
    config="simflow",
    arms=alignment_arms,
    seeds=SEEDS,
    evaluators=(ALIGNMENT, *GENERATION, RECONSTRUCTION, LATENTS),
    metrics={
        "alignment": "",
        "alignment_gradient": "",
        "gfd_classifier": "",
        "accuracy": "",
        "rfd_classifier": "",
        "psnr": "dB",
        "nll": "nats/dim",
        "hf_ratio": "",
    },
    printed={"psnr": "aligned/PSNR"},
    claims=(
        Order(
            "aligns",
            "After training hidden states point the teacher's way: 1 - cos below 0.9",
            where={"alignment": "REPA-E"},
            less=Pick("alignment"),
            greater=0.9,
        ),
        Order(
            "reaches-the-encoder",
            "The alignment shapes the encoder too: its gradient there is at least a tenth of the "
            "NLL's",
            where={"alignment": "REPA-E"},
            less=0.1,
            greater=Pick("alignment_gradient"),
        ),
        Order(
            "samples-are-better",
            "Samples are closer to the training images with it",
            less=Pick("gfd_classifier", {"alignment": "REPA-E"}),
            greater=Pick("gfd_classifier", {"alignment": "none"}),
            paper="13.72 to 10.13",
        ),
        Order(
            "reconstructions-are-better",
            "Reconstructions are better with it",
            unit="dB",
            less=Pick("psnr", {"alignment": "none"}),
            greater=Pick("psnr", {"alignment": "REPA-E"}),
            paper="23.07 to 23.17",
        ),
        Equivalence(
            "costs-no-likelihood",
            "The NLL differs by less than 0.05 nats a dimension",
            unit="nats/dim",
            a=Pick("nll", {"alignment": "REPA-E"}),
            b=Pick("nll", {"alignment": "none"}),
            margin=0.05,
        ),
        *(
            Value(
                f"printed-psnr-{alignment.lower()}",
                f"ImageNet 256, alignment {alignment}: PSNR of reconstructions",
                where={"alignment": alignment},
                tiers=("paper",),
                pick=Pick("psnr"),
                printed=Printed("aligned/PSNR"),
                spread=0.3,
            )
            for alignment in ("none", "REPA-E")
        ),
    ),
    figure="reproduce.simflow.figures:alignment",
    how="One added term of weight 0.5 after the first layer of the deep block; its gradient goes "
    "through the flow into the encoder. `alignment_gradient` is its norm in the encoder over that "
    "of the NLL, both as they stand in the loss, on held-out images after training.",
    departures=(
        "The teacher is DINOv2 at paper, where its weights are the user's, and a frozen random "
        "pyramid of convolutions elsewhere: that knows no classes.",
    ),
)

# ----------------------------------------------------------------------------- resolution


def resolution_arms(tier: str) -> list[Arm]:
    """The same settings on images of twice the side: four times the tokens."""
    if tier == "paper":
        wide = {"flow.grid": [32, 32], **ALIGNED["paper"]}
        wide["alignment"] = {**wide["alignment"]}
        wide["alignment"]["init_args"] = {**wide["alignment"]["init_args"], "grid": 32}
        once = arm("imagenet512", END_TO_END, tier, 800_640, 0, None, {"tokens": 1024}, wide)
        return [once]
    found, updates = [], {"gpu": 5000}.get(tier)
    for side, grid in ((8, 4), (16, 8)):
        data = "digits" if side == 8 else "mnist16"
        changes = {"vae.multipliers": [1, 2], "vae.latent_channels": 4, "vae.in_channels": 1}
        changes |= {"flow.channels": 4, "flow.grid": [grid, grid], "flow.classes": 10}
        found.append(standard(data, END_TO_END, tier, {"tokens": grid**2}, changes, updates))
    return found[:1] if tier == "smoke" else found


RESOLUTION = Target(
    id="sf-resolution",
    paper="simflow",
    title="Twice the side, four times the tokens",
    question="Do the same settings train on larger images, and is the flow inverted as exactly?",
    reference="T3; Table 2, 512 pixels",
    config="simflow",
    arms=resolution_arms,
    seeds={"smoke": 1, "small": 3, "gpu": 3, "paper": 1},
    evaluators=(EXACTNESS, LATENTS, RECONSTRUCTION, *GENERATION),
    metrics={
        "roundtrip": "",
        "roundtrip_cached": "",
        "nll": "nats/dim",
        "rate": "nats/dim",
        "psnr": "dB",
        "gfd_classifier": "",
        "accuracy": "",
    },
    claims=(
        Identity(
            "inverts-exactly",
            "Latents of held-out images come back from the naive inverse within 1e-4",
            metric="roundtrip",
            low=0.0,
            high=1e-4,
        ),
        Identity(
            "inverts-exactly-cached",
            "And from the cached one",
            metric="roundtrip_cached",
            low=0.0,
            high=1e-4,
        ),
        Order(
            "learns-at-both",
            "At both sizes reconstructions reach 12 dB",
            over=("tokens",),
            unit="dB",
            less=12.0,
            greater=Pick("psnr"),
        ),
    ),
    figure="reproduce.simflow.figures:resolution",
    how="Digits of 8 pixels and MNIST at 16, both at 2 x 2 pixels a token.",
)

TARGETS = (HEADLINE, ALIGNMENT_TARGET, RESOLUTION, GUIDANCE_TARGET)
