"""ne-profile and ne-epochs: how the stored entropy grows while a network learns a mixture."""

from reproduce.target import (
    Arm,
    Equivalence,
    Evaluator,
    Identity,
    Order,
    Pick,
    Printed,
    Target,
    Trend,
    Value,
)

__all__ = ["BOUND", "ENTROPY", "LAST_BOUND", "RATES", "STORED", "TARGETS", "arm", "epochs_arms"]

_MODULE = "reproduce.neural_entropy.evaluators"
_BELOW = ("smoke", "small", "gpu")
ENTROPY = Evaluator("entropy", 1, f"{_MODULE}:entropy", tiers=_BELOW, data="MixtureData")
BOUND = Evaluator("bound", 1, f"{_MODULE}:bound", tiers=_BELOW, data="MixtureData")
RATES = Evaluator("profile", 1, f"{_MODULE}:profile", tiers=_BELOW, data="MixtureData")
# at full size a cell measures no more than the paper's figure shows, and the bound once
STORED = Evaluator("stored", 1, f"{_MODULE}:stored", tiers=("paper",), data="MixtureData")
LAST_BOUND = Evaluator(
    "bound", 1, f"{_MODULE}:bound", marks="last", tiers=("paper",), data="MixtureData"
)

_EPOCH = 256  # updates per epoch in the paper: N = 8192, batches of 32
_MARKS = tuple(e * _EPOCH for e in (5, 10, 20, 30, 40, 80, 120, 160, 200))
# two standard deviations of the paper's own points about their level, from epoch 20 on
_SCATTER = {("vp", "D3"): 0.10, ("vp", "D6"): 0.23, ("vp", "D9"): 0.42}
_X = ("vpx", "sl")


def arm(process: str, mixture: str) -> Arm:
    """One process on one mixture; the same config, hence the same cell, for both targets."""
    dim = int(mixture.removeprefix("D").split("-")[0])
    return Arm(
        {"process": process, "mixture": mixture},
        {
            "model.init_args.process": process,
            "model.init_args.net.init_args.dim": dim,
            "data.init_args.mixture": mixture,
        },
    )


def epochs_arms(tier: str) -> list[Arm]:
    mixtures = {"smoke": ("D3",), "small": ("D3", "D6")}.get(tier, ("D3", "D6", "D9"))
    return [arm(p, m) for m in mixtures for p in ("vp", "vpx", "sl")]


def profile_arms(tier: str) -> list[Arm]:
    return [arm("vpx", "D3" if tier == "smoke" else "D6"), arm("vp", "D2-notebook")]


EPOCHS = Target(
    id="ne-epochs",
    paper="neural-entropy",
    title="Neural entropy along training, three processes by dimension",
    question="Does the neural entropy of a network approach the total entropy of the diffusion, "
    "at once for VP, and slowly from below for VPx and SL?",
    reference="T3; figure F-c",
    config="neural_entropy",
    arms=epochs_arms,
    seeds={"smoke": 1, "small": 3, "gpu": 3, "paper": 4},
    evaluators=(ENTROPY, BOUND, STORED, LAST_BOUND),
    metrics={
        "S_NN": "nats",
        "S_tot": "nats",
        "S_tot_se": "nats",
        "stored": "S_tot",
        "S_NN_exact": "nats",
        "missing": "nats",
        "L_EM": "nats",
        "cross": "nats",
        "KL_bound": "nats",
        "S_tot_over_vp": "",
        "S_tot_over_sl": "",
        "ineq_low": "S_tot",
        "ineq_high": "S_tot",
    },
    index="updates",
    printed={"S_NN": "transport-figure/S_NN", "S_tot": "transport-figure/S_tot"},
    comparable=("S_tot",),
    claims=(
        Identity(
            "same-total",
            "S_tot of VPx and SL agree within 1 %",
            where={"process": "vpx"},
            metric="S_tot_over_sl",
            equals=1.0,
            atol=0.01,
        ),
        Identity(
            "hundredfold",
            "S_tot of VPx and SL is more than 100 times that of VP",
            where={"process": _X},
            metric="S_tot_over_vp",
            low=100.0,
        ),
        Identity(
            "reverse-triangle-below",
            "(sqrt S_tot - sqrt S_NN)^2 <= L_EM for every trained network",
            metric="ineq_low",
            low=-1e-9,
            unit="S_tot",
        ),
        Identity(
            "reverse-triangle-above",
            "L_EM <= (sqrt S_tot + sqrt S_NN)^2 for every trained network",
            metric="ineq_high",
            low=-1e-9,
            unit="S_tot",
        ),
        Equivalence(
            "vp-at-total",
            "VP: S_NN is within 20 % of S_tot at 2000 and 4000 updates",
            over=("mixture", "updates"),
            where={"process": "vp", "updates": (2000, 4000)},
            tiers=("small",),
            unit="S_tot",
            a=Pick("stored"),
            b=1.0,
            margin=0.20,
        ),
        Order(
            "vp-is-fast",
            "VP: S_NN > 0.8 S_tot after 2000 updates",
            over=("mixture",),
            where={"process": "vp"},
            tiers=("small",),
            unit="S_tot",
            less=0.8,
            greater=Pick("stored", {"updates": 2000}),
        ),
        Order(
            "x-is-slow",
            "VPx and SL: S_NN < 0.6 S_tot after 2000 updates",
            over=("process", "mixture"),
            where={"process": _X},
            tiers=("small",),
            unit="S_tot",
            less=Pick("stored", {"updates": 2000}),
            greater=0.6,
        ),
        Equivalence(
            "vp-from-epoch-20",
            "VP: |S_NN - S_tot| <= 0.15 S_tot from epoch 20 on",
            over=("mixture", "updates"),
            where={
                "process": "vp",
                "updates": tuple(e * _EPOCH for e in (20, 30, 40, 80, 120, 160, 200)),
            },
            tiers=("gpu", "paper"),
            unit="S_tot",
            a=Pick("stored"),
            b=1.0,
            margin=0.15,
        ),
        Trend(
            "x-rises",
            "VPx and SL: S_NN increases with training",
            over=("process", "mixture"),
            where={"process": _X},
            tiers=("gpu", "paper"),
            unit="nats per update",
            metric="S_NN",
            axis="updates",
        ),
        Equivalence(
            "x-at-200",
            "VPx and SL: S_NN after 200 epochs lies in [0.8, 1.0] S_tot",
            over=("process", "mixture"),
            where={"process": _X},
            tiers=("paper",),
            unit="S_tot",
            a=Pick("stored", {"updates": 200 * _EPOCH}),
            b=0.9,
            margin=0.1,
        ),
        Order(
            "d3-above-d6",
            "VPx and SL: after 200 epochs S_NN / S_tot is larger for D = 3 than for D = 6",
            over=("process",),
            where={"process": _X},
            tiers=("paper",),
            unit="S_tot",
            less=Pick("stored", {"mixture": "D6", "updates": 200 * _EPOCH}),
            greater=Pick("stored", {"mixture": "D3", "updates": 200 * _EPOCH}),
        ),
        Order(
            "d6-above-d9",
            "VPx and SL: after 200 epochs S_NN / S_tot is larger for D = 6 than for D = 9",
            over=("process",),
            where={"process": _X},
            tiers=("paper",),
            unit="S_tot",
            less=Pick("stored", {"mixture": "D9", "updates": 200 * _EPOCH}),
            greater=Pick("stored", {"mixture": "D6", "updates": 200 * _EPOCH}),
        ),
        Equivalence(
            "vpx-equals-sl",
            "S_NN of VPx and SL differ by less than 5 % from epoch 80 on",
            over=("mixture", "updates"),
            where={"updates": tuple(e * _EPOCH for e in (80, 120, 160, 200))},
            tiers=("gpu", "paper"),
            unit="S_NN(SL)",
            a=Pick("S_NN", {"process": "vpx"}),
            b=Pick("S_NN", {"process": "sl"}),
            margin=0.05,
            relative=True,
        ),
        Order(
            "sl-is-ahead-early",
            "D = 9: S_NN of SL exceeds that of VPx at epochs 10 to 40",
            over=("updates",),
            where={"mixture": "D9", "updates": tuple(e * _EPOCH for e in (10, 20, 30, 40))},
            tiers=("gpu", "paper"),
            unit="nats",
            less=Pick("S_NN", {"process": "vpx"}),
            greater=Pick("S_NN", {"process": "sl"}),
        ),
        Value(
            "figure-at-200",
            "VPx and SL: S_NN after 200 epochs equals the paper's figure within its reading error",
            over=("process", "mixture"),
            where={"process": _X, "updates": (200 * _EPOCH,)},
            tiers=("paper",),
            unit="nats",
            pick=Pick("S_NN", {"updates": 200 * _EPOCH}),
            printed=Printed("transport-figure/S_NN"),
        ),
        *(
            Value(
                f"figure-{process}-{mixture.lower()}",
                f"{name}, D = {mixture[1:]}: S_NN at each of the nine epoch marks equals the "
                "paper's figure within its reading error",
                over=("updates",),
                where={"process": process, "mixture": mixture, "updates": _MARKS},
                tiers=("paper",),
                unit="nats",
                pick=Pick("S_NN", {"process": process, "mixture": mixture}),
                printed=Printed("transport-figure/S_NN"),
                spread=_SCATTER.get((process, mixture), 0.0),
            )
            for process, name in (("vpx", "VPx"), ("sl", "SL"), ("vp", "VP"))
            for mixture in ("D3", "D6", "D9")
        ),
    ),
    figure="reproduce.neural_entropy.figures:epochs",
    how="An MLP is trained with the unweighted entropy-matching loss; at marks its S_NN is "
    "measured on held-out points over the paper's window (100 times from 1e-5 to 1, first and "
    "last dropped), beside S_tot on the same draws. `stored` is their ratio. L_EM, missing "
    "entropy and the KL bound use the window [1e-5, 1 - 1e-5].",
    departures=(
        "small: widths 128 and 64 with 64 frequencies, N = 4096, batches of 64 x 4 draws, "
        "learning rate 1e-3, 4000 updates, 2000 held-out points; the paper trains widths 512 and "
        "256 on N = 8192 in batches of 32 x 10 draws at 1e-4 for 51,200 updates.",
        "VP: the paper's own points scatter about their level by more than one can misread them; "
        "twice that scatter is allowed as its spread (fixed when one of 27 cells was known).",
        "The paper's points are set at the same number of updates (256 an epoch), not at the same "
        "number of samples seen.",
        "S_tot is the drop in KL divergence on 200,000 points with the exact second moment as "
        "control variate (standard error in S_tot_se), not the mean over 10,000 points that the "
        "paper draws as dashed lines.",
    ),
)

PROFILE = Target(
    id="ne-profile",
    paper="neural-entropy",
    title="Entropy rate over diffusion time, while training",
    question="In which order along diffusion time does a network learn: from noise towards data?",
    reference="T2; figures F-d and F-e",
    config="neural_entropy",
    arms=profile_arms,
    seeds={"smoke": 1, "small": 3, "gpu": 3, "paper": 4},
    evaluators=(STORED, RATES, ENTROPY),
    metrics={
        "s_peak": "",
        "peak": "nats per unit time",
        "s_peak_exact": "",
        "peak_exact": "nats per unit time",
        "gap_at_0.2": "exact rate",
        "gap_at_0.6": "exact rate",
        "S_NN": "nats",
        "stored": "S_tot",
    },
    index="updates",
    printed={
        "s_peak": "profile-figure/neural_s_peak",
        "peak": "profile-figure/neural_peak",
        "s_peak_exact": "profile-figure/s_peak",
        "peak_exact": "profile-figure/peak",
    },
    comparable=("s_peak_exact", "peak_exact"),
    claims=(
        Trend(
            "stored-rises",
            "VPx: the cumulative S_NN rises along training",
            where={"process": "vpx"},
            unit="nats per update",
            metric="S_NN",
            axis="updates",
        ),
        Order(
            "peak-moves-to-data",
            "VPx: the peak of the network's rate moves to smaller times while it learns",
            where={"process": "vpx"},
            less=Pick("s_peak", {"updates": "last"}),
            greater=Pick("s_peak", {"updates": "first"}),
        ),
        Order(
            "noise-first",
            "VPx: from the middle of training on, the rate is nearer to the exact one at s = 0.6 "
            "than at s = 0.2",
            over=("updates",),
            where={"process": "vpx", "updates": "later half"},
            unit="exact rate",
            less=Pick("gap_at_0.6"),
            greater=Pick("gap_at_0.2"),
        ),
        Identity(
            "exact-peak-time",
            "The exact entropy rate peaks at the time that the paper shows",
            tiers=("small", "gpu", "paper"),
            metric="s_peak_exact",
            equals=Printed("profile-figure/s_peak"),
        ),
        Identity(
            "exact-peak-height",
            "The exact entropy rate peaks at the height that the paper shows",
            tiers=("small", "gpu", "paper"),
            metric="peak_exact",
            equals=Printed("profile-figure/peak"),
            unit="nats per unit time",
        ),
    ),
    figure="reproduce.neural_entropy.figures:profile",
    how="The entropy rate sigma^2/2 E|e_theta|^2 of the networks of ne-epochs (VPx, D = 6) and of "
    "one on the authors' notebook mixture (VP, D = 2), on the paper's 100 times, beside the exact "
    "rate on the same draws.",
    departures=("small: the small network and recipe of ne-epochs; the smoke tier takes D = 3.",),
)

TARGETS = (PROFILE, EPOCHS)
