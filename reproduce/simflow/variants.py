"""sf-variants, sf-collapse, sf-stopgrad: what end-to-end training is made of, part by part."""

from itertools import pairwise

from reproduce.simflow.arms import END_TO_END, HOME, RECIPES, VARIANTS, standard
from reproduce.simflow.measures import GENERATION, LATENTS, RECONSTRUCTION, SEEDS
from reproduce.target import Arm, Identity, Order, Pick, Printed, Target, Value

__all__ = ["FLOOR", "TARGETS"]

FLOOR = 0.7257913526447274  # 0.5 ln(2 pi e 0.25), nats per dimension
_DATA = {
    "smoke": ("digits",),
    "small": ("digits", "cifar16"),
    "gpu": ("cifar32",),
    "paper": ("imagenet256",),
}
_LADDER = tuple(VARIANTS)


def variant_arms(tier: str) -> list[Arm]:
    return [standard(d, v, tier) for d in _DATA[tier] for v in VARIANTS]


def _better(slug: str, better: str, worse: str) -> Order:
    return Order(
        slug,
        f"Samples of {better} are closer to the training images than those of {worse}",
        over=("data",),
        less=Pick("gfd_classifier", {"variant": better}),
        greater=Pick("gfd_classifier", {"variant": worse}),
    )


_PAPER = {"data": "imagenet256"}

VARIANTS_TARGET = Target(
    id="sf-variants",
    paper="simflow",
    title="From a frozen VAE to end-to-end training, in six steps",
    question="Which step makes samples better: a fixed variance, a normalised encoder, a decoder "
    "trained on noise, or the flow's gradient in the encoder?",
    reference="T4; Figure 5",
    config="simflow",
    arms=variant_arms,
    seeds=SEEDS,
    evaluators=(*GENERATION, RECONSTRUCTION, LATENTS),
    metrics={
        "gfd_classifier": "",
        "gfd_classifier_held_out": "",
        "floor": "",
        "rfd_classifier": "",
        "beyond_reconstruction": "",
        "psnr": "dB",
        "psnr_noisy": "dB",
        "accuracy": "",
        "accuracy_real": "",
        "precision": "",
        "recall": "",
        "is_classifier": "",
        "nll": "nats/dim",
        "rate": "nats/dim",
        "rate_over_error": "standard errors",
        "snr": "",
        "std": "",
        "psnr_lost": "dB",
        "psnr_goes_with_gfd": "",
    },
    derive="reproduce.simflow.paired:ladder",
    printed={"psnr": "variants/PSNR"},
    claims=(
        *(
            _better(f"step-{i}", better, worse)
            for i, (worse, better) in enumerate(pairwise(_LADDER), 1)
        ),
        _better("end-to-end-beats-frozen", END_TO_END, "frozen/learnable"),
        Order(
            "end-to-end-is-more-faithful",
            "More samples of e2e/fixed are of the class that was asked for than of "
            "frozen/learnable",
            over=("data",),
            less=Pick("accuracy", {"variant": "frozen/learnable"}),
            greater=Pick("accuracy", {"variant": END_TO_END}),
        ),
        Order(
            "frozen-learnable-reconstructs-best",
            "The frozen VAE of learnable variance reconstructs better than every other variant",
            over=("data", "variant"),
            where={"variant": _LADDER[1:]},
            unit="dB",
            less=0.0,
            greater=Pick("psnr_lost"),
            paper="29.76 dB, the highest",
        ),
        Order(
            "reconstruction-is-not-generation",
            "Over the six variants PSNR and the samples' distance rise together (rank "
            "correlation above 0): who reconstructs better generates worse",
            over=("data",),
            less=0.0,
            greater=Pick("psnr_goes_with_gfd"),
            paper="0.83",
        ),
        Identity(
            "above-the-floor",
            "Fixed variance: held-out NLL is not below 0.5 ln(2 pi e sigma^2) by more than 4 "
            "standard errors",
            where={"variant": ("frozen/fixed", "frozen/fixed+LN", END_TO_END)},
            metric="rate_over_error",
            low=-4.0,
            unit="standard errors",
        ),
        *(
            Value(
                f"printed-psnr-{i}",
                f"ImageNet 256: {variant} has its printed PSNR",
                where={**_PAPER, "variant": variant},
                tiers=("paper",),
                pick=Pick("psnr"),
                printed=Printed("variants/PSNR"),
                spread=0.5,
            )
            for i, variant in enumerate(_LADDER, 1)
        ),
    ),
    figure="reproduce.simflow.figures:variants",
    how="Frozen parts are trained in a first stage without the flow; all variants then make "
    "equally many updates with it: 1000 and 2000 on digits, 3000 and 3000 on cifar16 at small. "
    "All is measured on exponential averages of the weights, of decay 0.99 at small, 0.999 at gpu "
    "and 0.9999 at paper; what is frozen is the average of the first stage. `gfd` is the squared "
    "Frechet distance of samples (2000 at small) to the training images on the small classifier's "
    "features, without guidance, from the same noise in every arm; `rfd` that of reconstructions "
    "to held-out images; `floor` that of as many bootstrap draws of the training images, over ten "
    "sets of them. The paper's PSNR is of ImageNet at 256 pixels, and comparable at paper alone.",
    departures=(
        "gFID and rFID need Inception at 299 pixels; at small the suite's classifier stands in, "
        "and its distance is never called FID: not comparable with the printed ones.",
        "lambda_nf is 0.1 on 64 and 512 latent dimensions, where 1.0 would charge a nat 256 and "
        "32 times as much as on the paper's 16,384.",
        "cifar16 has 32 latent channels: with 8, in a first run of one to two seeds, the distance "
        "of reconstructions was 80 to 95 % of that of samples (in the paper at most 10 %), so "
        "that the decoder alone was compared; 16 and 32 were then tried on another seed.",
        "The VAE at small has width 16 and one residual block a level, in place of 128 and two; "
        "images of cifar16 are not flipped.",
        "No LPIPS and no GAN below tier paper. The noise of both noise rows is 0.5, in units of "
        "the latents' deviation where the encoder is frozen (it is not printed).",
    ),
)

# ------------------------------------------------------------------------------ collapse
_LEARNABLE = {"vae.posterior": "learnable"}
_COLLAPSE = {
    "fixed": {},
    "learnable": _LEARNABLE,
    "learnable, entropy": {**_LEARNABLE, "entropy_term": True},
}


def collapse_arms(tier: str) -> list[Arm]:
    """At small the longer fixed is the cell of sf-variants, learnable with entropy of sf-variance.

    The shorter length is the one at which the loss of pictures was first seen, on one seed.
    """
    home, whole = HOME[tier], RECIPES[tier][0]
    return [
        standard(home, END_TO_END, tier, {"variance": name, "updates": n or whole}, changes, n)
        for n in {"small": (700, None), "gpu": (5000,)}.get(tier, (None,))
        for name, changes in _COLLAPSE.items()
    ]


COLLAPSE = Target(
    id="sf-collapse",
    paper="simflow",
    title="Why the variance is fixed: the collapse without it",
    question="Does an encoder of learnable variance shrink its latents without end when the "
    "flow's gradient reaches it, and does a fixed variance, or the entropy of the ELBO, stop it?",
    reference="T5; section 3.2",
    config="simflow",
    arms=collapse_arms,
    seeds={"smoke": 1, "small": 3, "gpu": 3, "paper": 1},
    evaluators=(LATENTS, RECONSTRUCTION, *GENERATION),
    metrics={
        "nll": "nats/dim",
        "noise_entropy": "nats/dim",
        "rate": "nats/dim",
        "rate_over_error": "standard errors",
        "sigma": "",
        "std": "",
        "snr": "",
        "psnr": "dB",
        "psnr_lost": "dB",
        "gfd_classifier": "",
        "accuracy": "",
    },
    derive="reproduce.simflow.paired:over_fixed",
    claims=(
        Order(
            "below-all-bounds",
            "Learnable: the NLL falls below the bound that holds for the fixed variance",
            where={"variance": "learnable"},
            over=("updates",),
            unit="nats/dim",
            less=Pick("nll"),
            greater=FLOOR,
        ),
        Order(
            "sigma-vanishes",
            "Learnable: sigma is below a tenth of the fixed one",
            where={"variance": "learnable"},
            over=("updates",),
            less=Pick("sigma"),
            greater=0.05,
        ),
        Order(
            "pictures-are-lost",
            "Learnable: in the shorter training reconstructions lose more than 3 dB over fixed",
            where={"variance": "learnable", "updates": "first"},
            unit="dB",
            less=3.0,
            greater=Pick("psnr_lost"),
        ),
        Order(
            "pictures-stay-lost",
            "Control: in the longer one they still do",
            tiers=("small",),
            where={"variance": "learnable", "updates": "last"},
            unit="dB",
            less=3.0,
            greater=Pick("psnr_lost"),
        ),
        Order(
            "samples-are-lost",
            "Learnable: samples are farther from the training images than those of the fixed",
            over=("updates",),
            less=Pick("gfd_classifier", {"variance": "fixed"}),
            greater=Pick("gfd_classifier", {"variance": "learnable"}),
        ),
        Order(
            "latents-shrink",
            "Learnable: the latents' deviation is below that of the fixed variance",
            over=("updates",),
            less=Pick("std", {"variance": "learnable"}),
            greater=Pick("std", {"variance": "fixed"}),
        ),
        Identity(
            "fixed-is-bounded",
            "Fixed: held-out NLL is not below its bound by more than 4 standard errors",
            where={"variance": "fixed"},
            metric="rate_over_error",
            low=-4.0,
            unit="standard errors",
        ),
        Order(
            "entropy-stops-it-too",
            "Control: with the entropy of the ELBO a learnable sigma stays above a tenth of the "
            "fixed one",
            where={"variance": "learnable, entropy"},
            over=("updates",),
            less=0.05,
            greater=Pick("sigma"),
        ),
    ),
    figure="reproduce.simflow.figures:collapse",
    how="Trained end to end from scratch at lambda_nf 0.1, at small for 700 and 2000 updates. The "
    "shorter arms and the claim about samples were added after the longer arms had been seen.",
)

# ------------------------------------------------------------------------------ stopgrad


def stopgrad_arms(tier: str) -> list[Arm]:
    updates = {"gpu": 10_000}.get(tier)
    return [
        standard(HOME[tier], END_TO_END, tier, {"gradient": name}, changes, updates)
        for name, changes in (("joint", {}), ("stopped", {"stop_gradient": True}))
    ]


STOPGRAD = Target(
    id="sf-stopgrad",
    paper="simflow",
    title="The flow's gradient in the encoder, stopped",
    question="Is it the NLL's gradient in the encoder that makes latents easy for the flow, or "
    "only training side by side?",
    reference="T17; overview figure",
    config="simflow",
    arms=stopgrad_arms,
    seeds=SEEDS,
    evaluators=(LATENTS, RECONSTRUCTION, *GENERATION),
    metrics={
        "nll": "nats/dim",
        "rate": "nats/dim",
        "std": "",
        "snr": "",
        "hf_ratio": "",
        "hf_ratio_centred": "",
        "spectral_entropy": "",
        "spectral_entropy_centred": "",
        "autocorrelation": "",
        "psnr": "dB",
        "gfd_classifier": "",
        "accuracy": "",
    },
    claims=(
        Order(
            "joint-is-likelier",
            "The NLL is lower with the gradient in the encoder",
            unit="nats/dim",
            less=Pick("nll", {"gradient": "joint"}),
            greater=Pick("nll", {"gradient": "stopped"}),
        ),
        Order(
            "stopped-reconstructs-better",
            "Reconstructions are better without it",
            unit="dB",
            less=Pick("psnr", {"gradient": "joint"}),
            greater=Pick("psnr", {"gradient": "stopped"}),
        ),
        Order(
            "joint-is-smoother",
            "Latents have less of their power at high frequencies with it",
            less=Pick("hf_ratio", {"gradient": "joint"}),
            greater=Pick("hf_ratio", {"gradient": "stopped"}),
        ),
        *(
            Order(
                f"joint-is-smoother-{metric.replace('_', '-')}",
                f"Control: without each channel's mean they have {words} with it",
                less=Pick(metric, {"gradient": "joint"}),
                greater=Pick(metric, {"gradient": "stopped"}),
            )
            for metric, words in (
                ("hf_ratio_centred", "less power at high frequencies"),
                ("spectral_entropy_centred", "less spectral entropy"),
            )
        ),
        Order(
            "joint-generates-better",
            "Samples are closer to the training images with it",
            less=Pick("gfd_classifier", {"gradient": "joint"}),
            greater=Pick("gfd_classifier", {"gradient": "stopped"}),
        ),
    ),
    figure="reproduce.simflow.figures:stopgrad",
    how="e2e/fixed from scratch; the flow sees the same latents, detached in one arm.",
)

TARGETS = (VARIANTS_TARGET, COLLAPSE, STOPGRAD)
