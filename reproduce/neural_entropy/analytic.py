"""ne-analytic: the total entropy of known densities, computed twice, with nothing trained."""

from reproduce.target import Arm, Evaluator, Identity, Printed, Target

__all__ = ["TARGETS"]

PROCESSES = ("vp", "vpx", "sl")
_SMALL_LAWS = ("G1", "G2", "N1", "N2", "N3")  # quadrature and closed forms
_PAPER = ("D3", "D6", "D9")
_POINTS = {"smoke": 40_000, "small": 400_000, "gpu": 400_000, "paper": 1_000_000}
_DIM = {"G1": 1, "G2": 2, "N1": 1, "N2": 2, "N3": 3, "D3": 3, "D6": 6, "D9": 9}


def arms(tier: str) -> list[Arm]:
    """Each law under each process; the network stays as it was drawn."""
    return [
        Arm(
            {"mixture": law, "process": process},
            {
                "model.init_args.process": process,
                "model.init_args.net.init_args.dim": _DIM[law],
                "data.init_args.mixture": law,
                "data.init_args.n_train": 1,
                "data.init_args.n_eval": _POINTS[tier] if law in _PAPER else 1000,
                "trainer.max_steps": 0,
                "marks.updates": [],
            },
        )
        for law in (*_SMALL_LAWS, *_PAPER)
        for process in PROCESSES
    ]


ANALYTIC = Target(
    id="ne-analytic",
    paper="neural-entropy",
    title="Total entropy of known densities, by score integral and by KL drop",
    question="Is S_tot, the entropy that a diffusion produces, the drop in KL divergence to the "
    "quasi-invariant density, and do the estimators reach its exact value?",
    reference="T1; definition (1), identity (6), inequality (8); dashed lines of F-c",
    config="neural_entropy",
    arms=arms,
    seeds={"smoke": 1, "small": 1, "gpu": 1, "paper": 1},
    evaluators=(Evaluator("analytic", 2, "reproduce.neural_entropy.evaluators:analytic"),),
    metrics={
        "S_tot": "nats",
        "S_tot_se": "nats",
        "S_score": "nats",
        "rel_err": "",
        "rel_err_se": "",
        "remainder": "nats",
        "remainder_err": "nats",
        "min_increment": "nats",
        "ineq_low": "S_tot",
        "ineq_high": "S_tot",
        "scaled_err": "S_tot",
    },
    printed={"S_tot": "transport-figure/S_tot"},
    comparable=("S_tot",),
    claims=(
        Identity(
            "two-computations",
            "Score integral and KL drop agree within 1e-5 by quadrature",
            where={"mixture": _SMALL_LAWS},
            metric="rel_err",
            equals=0.0,
            atol=1e-5,
        ),
        Identity(
            "two-computations-mc",
            "Score integral and KL drop agree within 4 standard errors on the paper's mixtures",
            where={"mixture": _PAPER},
            metric="rel_err",
            equals=0.0,
            errors=4,
            error_metric="rel_err_se",
        ),
        Identity(
            "known-values",
            "S_tot of small mixtures and Gaussians equals independent values",
            where={"mixture": _SMALL_LAWS},
            metric="S_tot",
            equals=Printed("quadrature/S_tot"),
            rtol=1e-8,  # records keep nine digits
            unit="nats",
        ),
        Identity(
            "paper-mixtures",
            "S_tot of the paper's mixtures is within 4 standard errors plus 1e-3 of its exact "
            "value",
            where={"mixture": _PAPER},
            metric="S_tot",
            equals=Printed("exact/S_tot"),
            atol=1e-3,
            errors=4,
            error_metric="S_tot_se",
            unit="nats",
        ),
        Identity(
            "dashed-lines",
            "S_tot equals the dashed lines of the paper's figure within their reading error and "
            "the 1 % noise of its 10,000 points",
            where={"mixture": _PAPER},
            metric="S_tot",
            equals=Printed("transport-figure/S_tot"),
            rtol=0.01,
            unit="nats",
        ),
        Identity(
            "same-flow",
            "Small mixtures and Gaussians: the score integrals of SL and VPx differ by VPx's "
            "unfinished remainder KL(p_T || p_eq)",
            where={"mixture": _SMALL_LAWS},
            metric="remainder_err",
            equals=0.0,
            atol=1e-5,  # quadrature error of two integrals near 200 nats
            unit="nats",
        ),
        Identity(
            "remainder-size",
            "That remainder lies in [1e-3, 1e-1] nats for the paper's mixtures",
            where={"mixture": _PAPER},
            metric="remainder",
            low=1e-3,
            high=1e-1,
            unit="nats",
        ),
        Identity(
            "never-falls",
            "S_tot(s) of small mixtures and Gaussians does not decrease with diffusion time",
            where={"mixture": _SMALL_LAWS},
            metric="min_increment",
            low=-1e-9,
            unit="nats",
        ),
        Identity(
            "reverse-triangle-below",
            "(sqrt S_tot - sqrt S_NN)^2 <= L_EM for e*, c e* and random networks",
            metric="ineq_low",
            low=-1e-9,
            unit="S_tot",
        ),
        Identity(
            "reverse-triangle-above",
            "L_EM <= (sqrt S_tot + sqrt S_NN)^2 for e*, c e* and random networks",
            metric="ineq_high",
            low=-1e-9,
            unit="S_tot",
        ),
        Identity(
            "scaled-network",
            "For c e*: S_NN = c^2 S_tot and L_EM = (1 - c)^2 S_tot",
            metric="scaled_err",
            equals=0.0,
            atol=1e-9,
            unit="S_tot",
        ),
    ),
    figure="reproduce.neural_entropy.figures:analytic",
    how="No training. Mixtures G1, G2 and Gaussians N1 to N3 by Gauss-Hermite quadrature in space "
    "and Gauss-Legendre in time; the paper's D = 3, 6, 9 mixtures by Monte Carlo with the exact "
    "second moment as control variate. The random networks are the untrained MLP of the tier.",
    departures=(
        "The paper integrates S_tot from 1e-5 on a grid of 100 times with 10,000 points; here the "
        "whole [0, 1] is integrated, so that the two computations can agree to quadrature error.",
    ),
)

TARGETS = (ANALYTIC,)
