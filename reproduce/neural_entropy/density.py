"""ne-density: log-densities by the bound; with ne-uncertainty and ne-score-matching, its siblings.

All three hold what is known exactly of a mixture's diffusion against what a network makes of it.
"""

from reproduce.neural_entropy.scores import SCORE_MATCHING
from reproduce.neural_entropy.transport import arm
from reproduce.neural_entropy.uncertainty import UNCERTAINTY
from reproduce.target import Equivalence, Evaluator, Identity, Order, Pick, Target

__all__ = ["TARGETS"]

_DENSITY = Evaluator(
    "density", 1, "reproduce.neural_entropy.density_evaluators:density", marks="last"
)

DENSITY = Target(
    id="ne-density",
    paper="neural-entropy",
    title="Log-densities by the bound, with the exact field and with a network",
    question="Is the log-density bound tight where the field is exact, how far below is it with a "
    "trained network, and how does its Monte Carlo error fall?",
    reference="T10; bound (9), figure F-e",
    config="neural_entropy",
    arms=lambda tier: [arm("vp", "D2-notebook"), arm("vp", "D3")],
    seeds={"smoke": 1, "small": 3, "gpu": 3, "paper": 4},
    evaluators=(_DENSITY,),
    metrics={
        "gap_exact": "nats",
        "gap_exact_se": "nats",
        "correlation_exact": "",
        "gap": "nats",
        "gap_se": "nats",
        "correlation": "",
        "error_slope": "",
    },
    claims=(
        Order(
            "exact-field-correlates",
            "With the exact field, estimated and true log-densities correlate above 0.98",
            over=("mixture",),
            less=0.98,
            greater=Pick("correlation_exact"),
        ),
        Identity(
            "exact-field-is-tight",
            "With the exact field, the mean gap between true and estimated log-density is within "
            "3 standard errors of zero",
            metric="gap_exact",
            equals=0.0,
            errors=3,
            error_metric="gap_exact_se",
            unit="nats",
        ),
        Order(
            "networks-gap-is-positive",
            "With a trained network the mean gap, which is the KL bound, is above zero",
            over=("mixture",),
            unit="nats",
            less=0.0,
            greater=Pick("gap"),
        ),
        Equivalence(
            "error-falls-as-root",
            "The error of an estimate falls as throws^-1/2: slope -0.5 within 0.1",
            over=("mixture",),
            a=Pick("error_slope"),
            b=-0.5,
            margin=0.1,
        ),
    ),
    figure="reproduce.neural_entropy.density_figures:density",
    how="The VP networks of ne-profile (D = 2) and ne-epochs (D = 3) after training, on 1000 "
    "held-out points with 1000 throws each (200 with 200 at smoke). `gap` is the mean of true "
    "minus estimated log-density with e_theta, `gap_exact` with e*, on the same draws, which are "
    "each seed's own. `error_slope` is that of log spread against log throws (16, 64, 256, 1024) "
    "for 8 estimates of each of 100 points with e_theta.",
    departures=(
        "Our times are stratified, the authors' are not. The exponent is the same: within a slice "
        "the noise z is still free, its part of the variance falls as 1/throws, and the part that "
        "stratification removes falls faster. The margin of 0.1 is our choice.",
        "The exact field's mean gap is KL(p_T || p_0) and what the cut-offs at 1e-5 leave out: "
        "under 1e-3 nats, where a standard error is 4e-3.",
    ),
)

TARGETS = (DENSITY, UNCERTAINTY, SCORE_MATCHING)
