"""ne-bound and ne-balance: what a network has not stored, and how wrong it can be for it."""

from reproduce.neural_entropy.transport import BOUND, ENTROPY, LAST_BOUND, STORED, arm, epochs_arms
from reproduce.target import Arm, Equivalence, Identity, Order, Pick, Target, Trend

__all__ = ["TARGETS"]

_X = ("vpx", "sl")
_LAST = {"updates": "last"}
_BELOW = ("small", "gpu")
_INEQUALITY = (
    Identity(
        "reverse-triangle-below",
        "(sqrt S_tot - sqrt S_NN)^2 <= L_EM on every row",
        metric="ineq_low",
        low=-1e-9,
        unit="S_tot",
    ),
    Identity(
        "reverse-triangle-above",
        "L_EM <= (sqrt S_tot + sqrt S_NN)^2 on every row",
        metric="ineq_high",
        low=-1e-9,
        unit="S_tot",
    ),
)

BOUND_TARGET = Target(
    id="ne-bound",
    paper="neural-entropy",
    title="The KL bound of trained networks, by two estimators",
    question="Is the KL divergence from data to model bounded by what the network has failed to "
    "match, and does the bound fall as entropy is stored?",
    reference="T4; bounds (7) and (9)",
    config="neural_entropy",
    arms=epochs_arms,
    seeds={"smoke": 1, "small": 5, "gpu": 5, "paper": 4},
    evaluators=(ENTROPY, BOUND, STORED, LAST_BOUND),
    metrics={
        "KL_bound": "nats",
        "KL_bound_se": "nats",
        "L_EM": "nats",
        "L_EM_se": "nats",
        "KL_start": "nats",
        "bound_over_error": "standard errors",
        "disagreement": "standard errors",
        "ineq_low": "S_tot",
        "ineq_high": "S_tot",
    },
    index="updates",
    derive="reproduce.neural_entropy.balance:bounds",
    claims=(
        Identity(
            "not-negative",
            "The bound is not below zero by more than 3 standard errors",
            metric="bound_over_error",
            low=-3.0,
            unit="standard errors",
        ),
        Identity(
            "two-estimators",
            "Log-density bound and L_EM + KL(p_T || p_0) give one KL bound, within 4 standard "
            "errors on every row",
            tiers=("smoke", *_BELOW),
            metric="disagreement",
            equals=0.0,
            atol=4.0,  # of some 200 rows, 3 errors would be passed by chance
            unit="standard errors",
        ),
        Trend(
            "falls",
            "VPx and SL: the bound falls with training",
            over=("process", "mixture"),
            where={"process": _X},
            tiers=_BELOW,
            metric="KL_bound",
            axis="updates",
            sign=-1,
            statistic="spearman",
        ),
        *(
            Order(
                f"{process}-above-vp",
                f"At equal updates the bound of {name} exceeds that of VP",
                over=("mixture", "updates"),
                where={"updates": (250, 500, 1000, 2000, 4000)},
                tiers=("small",),
                unit="nats",
                less=Pick("KL_bound", {"process": "vp"}),
                greater=Pick("KL_bound", {"process": process}),
            )
            for process, name in (("vpx", "VPx"), ("sl", "SL"))
        ),
        Order(
            "grows-with-dimension",
            "The bound is larger for D = 6 than for D = 3 after training",
            over=("process",),
            tiers=(*_BELOW, "paper"),
            unit="nats",
            less=Pick("KL_bound", {"mixture": "D3", **_LAST}),
            greater=Pick("KL_bound", {"mixture": "D6", **_LAST}),
        ),
        *_INEQUALITY,
    ),
    figure="reproduce.neural_entropy.bound_figures:bound",
    how="The cells of ne-epochs. `KL_bound` is the mean of log p_d minus the lower bound (9) on "
    "log p_theta over 1000 held-out points with 500 throws each, times stratified; `L_EM` the "
    "time integral of the mismatch on 2000 points, from draws of its own; `KL_start` is "
    "KL(p_T || p_0). `disagreement` is their difference in standard errors.",
    departures=(
        "The paper's values of this figure are not known to us; its inequalities are judged.",
        "The authors take 10,000 throws a point and advise ten times more for SL; stratified "
        "times need fewer. Tier paper measures the bound once, at the last mark, with 1000.",
    ),
)


def balance_arms(tier: str) -> list[Arm]:
    """The three processes on D = 3, with the loss as released and with the ML weight."""
    return [
        Arm(
            {**one.axes, "weighting": weighting},
            {**one.overrides, "model.init_args.weighting": weighting},
        )
        for weighting in ("unit", "ml")
        for one in (arm(process, "D3") for process in ("vp", "vpx", "sl"))
    ]


BALANCE = Target(
    id="ne-balance",
    paper="neural-entropy",
    title="Information stored against information missing",
    question="Does what a network has not stored, S_tot - S_NN, tell how far its samples can be "
    "from the data?",
    reference="T5; relations R6 and R7",
    config="neural_entropy",
    arms=balance_arms,
    seeds={"smoke": 1, "small": 5, "gpu": 5, "paper": 4},
    evaluators=(ENTROPY, BOUND, STORED, LAST_BOUND),
    metrics={
        "missing": "nats",
        "S_NN_exact": "nats",
        "L_EM": "nats",
        "cross": "nats",
        "cross_share": "S_tot",
        "KL_bound": "nats",
        "rank_correlation": "",
        "ineq_low": "S_tot",
        "ineq_high": "S_tot",
    },
    index="updates",
    derive="reproduce.neural_entropy.balance:shares",
    claims=(
        Order(
            "missing-while-training",
            "VPx and SL, released loss: S_NN is below S_tot at every mark",
            over=("process", "updates"),
            where={"process": _X, "weighting": "unit"},
            tiers=_BELOW,
            unit="nats",
            less=0.0,
            greater=Pick("missing"),
        ),
        Equivalence(
            "pythagoras",
            "ML weighting: S_tot = S_NN + L_EM within 0.1 S_tot after training",
            over=("process",),
            where={"weighting": "ml"},
            tiers=_BELOW,
            unit="S_tot",
            a=Pick("cross_share", _LAST),
            b=0.0,
            margin=0.1,
        ),
        Order(
            "missing-ranks-the-bound",
            "VPx and SL: along training the rank correlation of missing entropy and KL bound "
            "exceeds 0.9",
            over=("process", "weighting"),
            where={"process": _X},
            tiers=_BELOW,
            less=0.9,
            greater=Pick("rank_correlation"),
        ),
        *_INEQUALITY,
    ),
    figure="reproduce.neural_entropy.bound_figures:balance",
    how="D = 3 under the three processes, with the unweighted loss of the released experiments "
    "(the cells of ne-epochs) and with the weight sigma^2 / (2 std^2), under which the loss is "
    "L_EM plus a constant. Missing entropy, L_EM and their cross term `cross` = S_tot - S_NN - "
    "L_EM are from the same draws over [1e-5, 1 - 1e-5]; `cross_share` is in units of S_tot "
    "there. `rank_correlation` is Spearman's over the marks of one run.",
    departures=("The paper's own statement of the balance is not known to us; R7 is derived.",),
)

TARGETS = (BOUND_TARGET, BALANCE)
