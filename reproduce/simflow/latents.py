"""sf-robustness, sf-interpolation, sf-latent: what a fixed variance makes of the latents."""

from reproduce.simflow.arms import END_TO_END, HOME, standard
from reproduce.simflow.headline import ALIGNED
from reproduce.simflow.measures import INTERPOLATION, LATENTS, ROBUSTNESS, SEEDS, STATISTICS
from reproduce.target import Arm, Identity, Order, Pick, Printed, Target, Value

__all__ = ["LEVELS", "TARGETS", "sigma_arm"]

LEVELS = ("0", "0.1", "0.2", "0.3", "0.5", "0.75", "1")
SIGMAS = (0.5, 0.75, 1.0, 1.25)


def sigma_arm(tier: str, sigma: float, axes: dict, updates: int | None = None) -> Arm:
    """e2e/fixed with another standard deviation; 0.5 is the cell of sf-variants."""
    changes = {} if sigma == 0.5 else {"vae.fixed_std": sigma}
    return standard(HOME[tier], END_TO_END, tier, axes, changes, updates)


# with the flow, end to end: as many as the first stage that made the frozen VAEs of sf-variants
_UPDATES = {"small": 1000}
_SHORT = (
    "At small each VAE has had 1000 updates, half of those of sf-variance: as many as the first "
    "stage that made the frozen ones, which are those of sf-variants.",
)


def vae_arms(tier: str) -> list[Arm]:
    """The learnable VAE, trained alone, and end-to-end ones of fixed variance."""
    sigmas, updates = (0.5, 1.0) if tier == "smoke" else SIGMAS, _UPDATES.get(tier)
    learnable = standard(HOME[tier], "frozen/learnable", tier, {"vae": "learnable"})
    return [learnable, *(sigma_arm(tier, s, {"vae": f"{s:g}"}, updates) for s in sigmas)]


def _rises(slug: str, statement: str, metric: str, low: str, high: str, paper: str = "") -> Order:
    at_low, at_high = Pick(metric, {"vae": low}), Pick(metric, {"vae": high})
    return Order(slug, statement, unit="dB", less=at_low, greater=at_high, paper=paper)


ROBUSTNESS_TARGET = Target(
    id="sf-robustness",
    paper="simflow",
    title="Decoders under noise",
    question="Does a decoder trained on latents of larger variance lose less when noise is added, "
    "and what does that cost without noise?",
    reference="T6; Figure 3a",
    config="simflow",
    arms=vae_arms,
    seeds=SEEDS,
    evaluators=(ROBUSTNESS,),
    metrics={
        **{f"psnr_{level}": "dB" for level in LEVELS},
        **{f"rfd_classifier_{level}": "" for level in LEVELS},
        **{f"psnr_relative_{level}": "dB" for level in LEVELS},
        "drop": "dB",
        "drop_relative": "dB",
        "std": "",
    },
    printed={f"psnr_{level}": f"robustness/PSNR_{level}" for level in LEVELS},
    claims=(
        _rises(
            "learnable-is-best-clean",
            "Without noise the learnable VAE reconstructs better than e2e 0.5",
            "psnr_0", "0.5", "learnable", "30.1 against 23.0 dB",
        ),
        _rises("0.5-before-0.75", "Without noise 0.5 beats 0.75", "psnr_0", "0.75", "0.5"),
        _rises("0.75-before-1", "Without noise 0.75 beats 1", "psnr_0", "1", "0.75"),
        _rises("1-before-1.25", "Without noise 1 beats 1.25", "psnr_0", "1.25", "1"),
        _rises(
            "learnable-drops-most",
            "From no noise to noise of 1 the learnable VAE loses more than e2e 0.5",
            "drop", "0.5", "learnable", "more than 12 against 3.5 dB",
        ),
        _rises("0.5-drops-more", "0.5 loses more than 0.75", "drop", "0.75", "0.5"),
        _rises("0.75-drops-more", "0.75 loses more than 1", "drop", "1", "0.75"),
        _rises("1-drops-more", "1 loses more than 1.25", "drop", "1.25", "1"),
        _rises(
            "learnable-drops-most-relative",
            "Control: noise in units of the means' deviation, the learnable VAE loses more than "
            "e2e 0.5 still",
            "drop_relative", "0.5", "learnable",
        ),
        _rises(
            "curves-cross",
            "At noise of 1 e2e 0.5 reconstructs better than the learnable VAE",
            "psnr_1", "learnable", "0.5",
        ),
        *(
            Value(
                f"printed-{vae}-{level}",
                f"{vae}: PSNR at noise {level}",
                where={"vae": vae},
                tiers=("paper",),
                pick=Pick(f"psnr_{level}"),
                printed=Printed(f"robustness/PSNR_{level}"),
                spread=0.3,
            )
            for vae in ("learnable", "0.5", "0.75", "1", "1.25")
            for level in ("0", "1")
            if (vae, level) != ("learnable", "1")
        ),
    ),
    figure="reproduce.simflow.figures:robustness",
    how="Held-out images are encoded, normal noise is added to the means, and they are decoded. "
    "Learnable is the VAE of sf-variants' frozen rows; the others were trained end to end. "
    "`relative` levels are in units of the means' standard deviation, which differs between arms.",
    departures=(
        *_SHORT,
        "The paper's PSNR is of ImageNet at 256 pixels: not comparable with that of digits.",
    ),
)  # fmt: skip

INTERPOLATION_TARGET = Target(
    id="sf-interpolation",
    paper="simflow",
    title="Between two latents",
    question="Do pictures between two latents switch from one to the other, or fade?",
    reference="T7; Figure 3b",
    config="simflow",
    arms=vae_arms,
    seeds=SEEDS,
    evaluators=(INTERPOLATION,),
    metrics={"blending": "", "blending_features": ""},
    claims=(
        Order(
            "larger-variance-blends-less",
            "Pictures between blend less with sigma 1 than with the learnable VAE",
            less=Pick("blending", {"vae": "1"}),
            greater=Pick("blending", {"vae": "learnable"}),
        ),
        Order(
            "larger-variance-blends-less-in-features",
            "Control: so they do in the classifier's features",
            less=Pick("blending_features", {"vae": "1"}),
            greater=Pick("blending_features", {"vae": "learnable"}),
        ),
    ),
    figure="reproduce.simflow.picture_figures:interpolation",
    how="Ten mixtures of the means of two held-out images of different classes, 50 pairs. "
    "`blending` is the distance to the nearer end over that between the ends, averaged: 0.22 on "
    "the straight line between two pictures.",
    departures=_SHORT,
)

# -------------------------------------------------------------------------------- statistics
_FROZEN = ("frozen/learnable", "frozen/fixed")


def latent_arms(tier: str) -> list[Arm]:
    home, updates, aligned = HOME[tier], _UPDATES.get(tier), {"variant": "e2e+REPA"}
    return [
        *(standard(home, v, tier, {"variant": v}) for v in _FROZEN),
        standard(home, END_TO_END, tier, {"variant": END_TO_END}, None, updates),
        standard(home, END_TO_END, tier, aligned, ALIGNED[tier], updates),
    ]


def _differs(
    slug: str, statement: str, metric: str, frozen: str, higher: bool, paper: str
) -> Order:
    ours, theirs = Pick(metric, {"variant": END_TO_END}), Pick(metric, {"variant": frozen})
    less, greater = (theirs, ours) if higher else (ours, theirs)
    return Order(slug, statement, less=less, greater=greater, paper=paper)


_PRINTED = {
    "hf_ratio": "latent/high-frequency ratio",
    "total_variation": "latent/total variation",
    "autocorrelation": "latent/autocorrelation",
}
_CLAIMED = (
    ("hf_ratio", False, "less power at high frequencies", "0.09 against 0.24 and 0.23"),
    ("autocorrelation", True, "more correlation of neighbours", "0.54 against 0.06 and 0.10"),
    ("total_variation", False, "less total variation", "0.47 against 0.71 and 1.06"),
    ("total_variation_standardised", False, "less total variation in units of its deviation", ""),
    ("spectral_entropy", False, "less spectral entropy", "0.84 against 0.99"),
)
# a constant offset of a channel is power at frequency 0, and would pass for smoothness
_CONTROLS = (
    ("hf_ratio_centred", "less power at high frequencies"),
    ("spectral_entropy_centred", "less spectral entropy"),
)

LATENT = Target(
    id="sf-latent",
    paper="simflow",
    title="How latents look",
    question="Does the flow's gradient make latents smoother?",
    reference="T8; Figure 4",
    config="simflow",
    arms=latent_arms,
    seeds=SEEDS,
    evaluators=(LATENTS,),
    metrics={**STATISTICS, "nll": "nats/dim", "rate": "nats/dim"},
    printed=_PRINTED,
    claims=(
        *(
            _differs(
                f"{metric.replace('_', '-')}-than-{frozen.split('/')[1]}",
                f"End-to-end latents have {words} than those of {frozen}",
                metric, frozen, higher, paper,
            )
            for metric, higher, words, paper in _CLAIMED
            for frozen in _FROZEN
        ),
        *(
            _differs(
                f"{metric.replace('_', '-')}-than-{frozen.split('/')[1]}",
                f"Control: without each channel's mean they have {words} than {frozen} still",
                metric, frozen, False, "",
            )
            for metric, words in _CONTROLS
            for frozen in _FROZEN
        ),
        Order(
            "frozen-scale-is-inflated",
            "A frozen encoder of fixed variance has larger latents than an end-to-end one",
            less=Pick("std", {"variant": END_TO_END}),
            greater=Pick("std", {"variant": "frozen/fixed"}),
        ),
        *(
            Value(
                f"printed-{metric.replace('_', '-')}-{i}",
                f"{variant}: printed {metric.replace('_', ' ')}",
                where={"variant": variant},
                tiers=("paper",),
                pick=Pick(metric),
                printed=Printed(key),
                spread=0.02,
            )
            for metric, key in _PRINTED.items()
            for i, variant in enumerate((*_FROZEN, END_TO_END, "e2e+REPA"), 1)
        ),
        Identity(
            "white-noise-has-most",
            "No spectral entropy exceeds 1",
            metric="spectral_entropy",
            low=0.0,
            high=1.0,
        ),
    ),
    figure="reproduce.simflow.figures:latent",
    how="Of the means of held-out images, by averaged weights. High frequencies are those above "
    "half the grid. `centred`: after each channel has lost its mean over images and places, which "
    "else counts as power at frequency 0.",
    departures=(
        *_SHORT,
        "The paper does not define its statistics; ours give its numbers for white latents "
        "(61/256 of the power above 8 cycles on a 16 x 16 grid). On 4 x 4 maps half the grid "
        "leaves 5/16 of the bins: not comparable with the printed ratios.",
        "The teacher of the REPA arm is DINOv2 at paper and a frozen random pyramid of "
        "convolutions elsewhere.",
    ),
)  # fmt: skip

TARGETS = (ROBUSTNESS_TARGET, INTERPOLATION_TARGET, LATENT)
