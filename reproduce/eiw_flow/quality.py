"""eiw-quality: does a learned channel order make better samples?"""

from reproduce.eiw_flow.arms import arm
from reproduce.eiw_flow.density import SEEDS
from reproduce.eiw_flow.recipes import recipe
from reproduce.target import (
    Arm,
    Equivalence,
    Evaluator,
    Identity,
    Order,
    Pick,
    Printed,
    Target,
    Value,
)

__all__ = ["DATA", "TARGETS", "quality_arms"]

_MODULE = "reproduce.eiw_flow.quality_evaluators"

# data sets by tier, and how many images are generated there
DATA = {
    "smoke": ("digits",),
    "small": ("digits", "mnist16"),
    "gpu": ("cifar32",),
    "paper": ("cifar10",),
}


def _measure(name: str, call: str, *tiers: str) -> Evaluator:
    return Evaluator(name, 1, f"{_MODULE}:{call}", marks="last", data="DensityImages", tiers=tiers)


_MEASURES = (
    _measure("quality", "few", "smoke"),
    _measure("quality", "quality", "small"),
    _measure("quality", "many", "gpu", "paper"),
    # without a file of weights: nothing at gpu, a failure that names the mend at paper
    _measure("inception", "inception_if_there", "gpu"),
    _measure("inception", "inception", "paper"),
)

# Less than a tenth of a Frechet distance is no difference: fixed before the first run.
MARGIN = 0.1


def quality_arms(tier: str) -> list[Arm]:
    """Cells of eiw-density."""
    modes = ("identity", "random-0", "eiw")
    return [arm(d, m, *recipe(tier, d)) for d in DATA[tier] for m in modes]


_LEARNED = {"mode": "eiw"}
_GREY = {"data": ("digits", "mnist16")}

QUALITY = Target(
    id="eiw-quality",
    paper="eiw-flow",
    title="Sample quality with and without Shuffle",
    question="Are samples of a flow with a learned channel order closer to real images than "
    "without it, and than with a random order?",
    reference="T-D; FID table",
    config="eiw_flow",
    arms=quality_arms,
    seeds=SEEDS,
    evaluators=_MEASURES,
    metrics={
        "fd_classifier": "",
        "fd_classifier_held_out": "",
        "floor": "",
        "excess_identity": "",
        "excess_random": "",
        "sure": "",
        "sure_real": "",
        "class_entropy": "nats",
        "class_entropy_real": "nats",
        "accuracy": "",
        "FID_train": "",
        "FID_test": "",
        "KID": "",
        "precision": "",
        "recall": "",
    },
    derive="reproduce.eiw_flow.excess:over_controls",
    printed={"FID_train": "quality/FID"},
    claims=(
        Order(
            "eiw-beats-vanilla",
            "Samples are closer to the training images with Shuffle than without",
            over=("data",),
            less=Pick("fd_classifier", _LEARNED),
            greater=Pick("fd_classifier", {"mode": "identity"}),
        ),
        Order(
            "eiw-beats-vanilla-held-out",
            "Samples are closer to held-out images with Shuffle than without",
            over=("data",),
            less=Pick("fd_classifier_held_out", _LEARNED),
            greater=Pick("fd_classifier_held_out", {"mode": "identity"}),
        ),
        Order(
            "eiw-beats-random",
            "Samples are closer to the training images with Shuffle than with a random order",
            over=("data",),
            less=Pick("fd_classifier", _LEARNED),
            greater=Pick("fd_classifier", {"mode": "random-0"}),
        ),
        Order(
            "eiw-is-no-worse",
            "Shuffle makes the distance to the training images greater by less than a tenth",
            over=("data",),
            where=_LEARNED,
            less=Pick("excess_identity"),
            greater=MARGIN,
        ),
        Equivalence(
            "shuffle-makes-no-difference",
            "Shuffle changes the distance to the training images by less than a tenth",
            over=("data",),
            where=_LEARNED,
            a=Pick("excess_identity"),
            b=0.0,
            margin=MARGIN,
        ),
        Identity(
            "classifier-knows-its-data",
            "The classifier whose features are used names the class of nine held-out images in "
            "ten (digits, MNIST)",
            where=_GREY,
            tiers=("smoke", "small"),
            metric="accuracy",
            low=0.9,
        ),
        Order(
            "fid-eiw-beats-vanilla",
            "FID is lower with Shuffle than without",
            over=("data",),
            tiers=("paper",),
            less=Pick("FID_train", _LEARNED),
            greater=Pick("FID_train", {"mode": "identity"}),
        ),
        Value(
            "printed-backbone",
            "CIFAR-10: the backbone alone reaches its printed FID",
            where={"data": "cifar10", "mode": "identity"},
            tiers=("paper",),
            pick=Pick("FID_train"),
            printed=Printed("quality/FID"),
            paper="34.90",
        ),
    ),
    figure="reproduce.eiw_flow.picture_figures:quality",
    how="Cells of eiw-density after their last update. Images (200 at smoke, 1000 at small, "
    "10,000 beyond) are drawn at temperature 1 from the same noise in every arm. `fd_classifier` "
    "is their squared Frechet distance to the training images on the 64 features of a small "
    "classifier of those images, `fd_classifier_held_out` that to held-out images; it falls with "
    "the number of images, which is the same in all arms. `floor` is that of as many draws of the "
    "training images. `sure` is the share of images whose class is given more than 0.9, "
    "`class_entropy` the entropy of the classes' histogram. `excess` is over the distance of the "
    "vanilla or random order of the same seed. FID (against training images, as the printed "
    "value, and against held-out ones), KID, precision and recall are torch-fidelity's, at gpu "
    "with 10,000 images and at paper with 50,000, where ENTROFLOW_INCEPTION names its weights.",
    departures=(
        "No FID of EIW-Flow is known to us; the printed one is the backbone's, DenseFlow-74-10.",
        "FID at small would need 299 x 299 images of digits: the small classifier stands in, and "
        "its distance is never called FID.",
        "The authors' real images pass through the training augmentation; ours do not.",
        "Precision and recall are on Inception features, not on those of VGG-16.",
    ),
)

TARGETS = (QUALITY,)
