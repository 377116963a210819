"""eiw-pictures: samples, interpolation and channel maps, with the numbers they stand on."""

from reproduce.eiw_flow.density import SEEDS
from reproduce.eiw_flow.quality import quality_arms
from reproduce.target import Evaluator, Identity, Order, Pick, Target

__all__ = ["TARGETS"]

_PICTURES = Evaluator(
    "pictures",
    1,
    "reproduce.eiw_flow.picture_evaluators:pictures",
    marks="last",
    data="DensityImages",
)

# The all-scale path may be dearer by less than this: fixed before the first run.
TOLERANCE = 0.05  # bits/dim
_KNOWN = {"data": ("digits", "mnist16")}  # whose classes the small classifier knows

PICTURES = Target(
    id="eiw-pictures",
    paper="eiw-flow",
    title="Samples, interpolation, attribute directions, channel maps",
    question="Do the paper's pictures stand on anything that can be checked: exact "
    "reconstruction, likely images between images, classes that persist?",
    reference="T-K; figures of samples, interpolation, manipulation and feature maps",
    config="eiw_flow",
    arms=quality_arms,
    seeds=SEEDS,
    evaluators=(_PICTURES,),
    metrics={
        "reconstruction_error": "",
        "max_bpd_all": "bits/dim",
        "max_bpd_last": "bits/dim",
        "middle_bpd_all": "bits/dim",
        "middle_bpd_last": "bits/dim",
        "middle_bpd_pixels": "bits/dim",
        "path_excess": "bits/dim",
        "consistent_all": "",
        "consistent_last": "",
        "consistent_pixels": "",
        "consistent_chance": "",
        "turned": "",
        "bypassed_1": "",
        "bypassed_2": "",
    },
    claims=(
        Identity(
            "reconstructs",
            "Images are read and drawn again with an error below 1e-4 in float32",
            metric="reconstruction_error",
            high=1e-4,
        ),
        Identity(
            "nothing-to-bypass",
            "Without Shuffle, leaving an order out changes images by less than 1e-4 of the range",
            where={"mode": "identity"},
            metric="bypassed_1",
            high=1e-4,
        ),
        Order(
            "all-scales-stay-likely",
            "The dearest image between two images costs at most 0.05 bits/dim more along the line "
            "of all latents than where only the last scale's move",
            over=("data", "mode"),
            unit="bits/dim",
            less=Pick("path_excess"),
            greater=TOLERANCE,
        ),
        Order(
            "cheaper-than-mixing-pixels",
            "Half way between two images, the image on the line of all latents costs less than "
            "the mean of their pixels",
            over=("data", "mode"),
            unit="bits/dim",
            less=Pick("middle_bpd_all"),
            greater=Pick("middle_bpd_pixels"),
        ),
        Order(
            "classes-persist",
            "Between two images, more than half of the images along the line of all latents are "
            "of either end's class",
            over=("data", "mode"),
            where=_KNOWN,
            tiers=("small",),
            less=0.5,
            greater=Pick("consistent_all"),
        ),
        Order(
            "latents-hold-the-class-longer-than-pixels",
            "More of them are than of the mixtures of the two images' pixels",
            over=("data", "mode"),
            where=_KNOWN,
            tiers=("small",),
            less=Pick("consistent_pixels"),
            greater=Pick("consistent_all"),
        ),
        Order(
            "all-scales-hold-the-class",
            "More of them are than where only the last scale's latents move",
            over=("data", "mode"),
            where=_KNOWN,
            tiers=("small",),
            less=Pick("consistent_last"),
            greater=Pick("consistent_all"),
        ),
        Order(
            "shuffle-holds-the-class-in-the-last-scale",
            "Where only the last scale's latents move, more images are of either end's class with "
            "Shuffle than without",
            over=("data",),
            where=_KNOWN,
            tiers=("small",),
            less=Pick("consistent_last", {"mode": "identity"}),
            greater=Pick("consistent_last", {"mode": "eiw"}),
        ),
        Order(
            "direction-turns-the-class",
            "A step between the mean latents of two classes turns more than half of the images of "
            "one into the other",
            over=("data", "mode"),
            where=_KNOWN,
            tiers=("small",),
            less=0.5,
            greater=Pick("turned"),
        ),
    ),
    figure="reproduce.eiw_flow.picture_figures:pictures",
    how="Cells of eiw-quality. 16 pairs of held-out images of different classes, nine points "
    "each; bits are an importance-weighted bound with 4 draws on the integer images that are "
    "shown. Controls: `_pixels` is said of mixtures of the two images' pixels, "
    "`consistent_chance` is the share of samples that are of either end's class. `bypassed_k` "
    "is the error, in units of the pixels' range, where the k-th order is left out when "
    "images are decoded. As in the authors' code: linear interpolation, in the last scale's "
    "latents with everything else drawn anew at each point, in all latents, between "
    "reconstructions in steps of 1/8, and beyond them to -1 and 2; the temperature of the "
    "last scale alone; first and last four channels before and after Shuffle; an order left "
    "out. Our choices: the temperature of all scales beside it; the numbers; class labels for "
    "CelebA's attributes, the direction being the difference of the classes' mean training "
    "latents over all scales.",
    departures=(
        "Temperatures are 0.6 to 1 in steps of 0.1 (authors: 0.51 to 1 in steps of 0.01); the "
        "last scale's path has 9 points (81) and its ends are latents of held-out images.",
        "An order left out spoils an image with any order but the vanilla one: the ablation "
        "shows that the flow relies on its order, not that the order is a good one.",
    ),
)

TARGETS = (PICTURES,)
