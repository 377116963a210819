"""eiw-lambda and eiw-solver: the weight of the order's term, sizes of solver and guider."""

from dataclasses import replace

from reproduce.eiw_flow.arms import GLOW, arm, tuned
from reproduce.eiw_flow.order import LIKELIHOOD, MARGIN, ORDERS
from reproduce.eiw_flow.recipes import recipe
from reproduce.target import Arm, Equivalence, Identity, Order, Pick, Target

__all__ = ["TARGETS"]

_NET = "model.init_args.net.init_args"
_LAMBDAS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_FEW = (0.0, 1e-4, 1e-3, 1.0)
_CNF = {"small": 150, "gpu": 5000}  # updates of the continuous flow


def lambda_arms(tier: str) -> list[Arm]:
    data = "cifar10" if tier == "paper" else "digits"
    base, config = recipe(tier, data)

    def one(lam: float, detach: bool, optimizer: str = "adamax", backbone: str = "NF") -> Arm:
        given, stem, few = base, config, 3
        if backbone == "CNF":
            given, stem = tuned(_CNF[tier]), f"{GLOW}_cnf"
        elif optimizer == "adamax":
            few = 5
        changes = {
            "model.init_args.lam": lam,
            "model.init_args.optimizer": optimizer,
            f"{_NET}.order_args.detach": detach,
        }
        if optimizer == "sgd":
            changes |= {"model.init_args.lr": 0.02, "model.init_args.fine_tune_lr": 0.002}
        axes = {
            "backbone": backbone,
            "optimizer": optimizer,
            "detach": "yes" if detach else "no",
            "lam": lam,
        }
        made = arm(data, "eiw", given, stem, changes=changes)
        return replace(made, axes=axes, seeds=few)

    if tier == "smoke":
        return [one(lam, detach) for lam in (0.0, 1e-3, 1.0) for detach in (False, True)]
    found = [one(lam, detach) for detach in (False, True) for lam in _LAMBDAS]
    found += [one(lam, False, "sgd") for lam in _FEW]
    if tier != "paper":  # what its continuous flow is, is not known
        found += [one(lam, False, "adamax", "CNF") for lam in _FEW]
    return found


_ADAMAX = {"backbone": "NF", "optimizer": "adamax"}

LAMBDA = Target(
    id="eiw-lambda",
    paper="eiw-flow",
    title="The weight of the order's term",
    question="Is there a best weight, as the paper's table has it, or does the weight hardly "
    "matter under an optimizer that divides scales out?",
    reference="T-F; Table 6",
    config="eiw_flow",
    arms=lambda_arms,
    seeds={"smoke": 1, "small": 5, "gpu": 5, "paper": 3},
    evaluators=(LIKELIHOOD, ORDERS),
    metrics={
        "bpd": "bits/dim",
        "bpd_iw16": "bits/dim",
        "excess": "bits/dim",
        "kl_1": "nats",
        "kl_2": "nats",
        "H_Q_1": "",
        "H_Q_2": "",
        "Q_P_1": "",
        "Q_P_2": "",
        "crossed_1": "channels",
        "crossed_2": "channels",
        "logits_moved_1": "",
    },
    derive="reproduce.eiw_flow.likelihoods:best",
    claims=(
        Order(
            "best-at-1e-3",
            "Glow: 1e-3 needs fewer bits than every other weight",
            over=("lam",),
            where={**_ADAMAX, "detach": "no"},
            unit="bits/dim",
            less=0.0,
            greater=Pick("excess"),
            paper="optimum 1e-3",
        ),
        Order(
            "best-at-1e-4-cnf",
            "Continuous flow: 1e-4 needs fewer bits than every other weight",
            over=("lam",),
            where={"backbone": "CNF"},
            tiers=("small", "gpu"),
            unit="bits/dim",
            less=0.0,
            greater=Pick("excess"),
            paper="optimum 1e-4",
        ),
        Order(
            "too-large-is-worse",
            "Glow: a weight of 1 needs more bits than 1e-3",
            where={**_ADAMAX, "detach": "no", "lam": 1.0},
            unit="bits/dim",
            less=0.0,
            greater=Pick("excess"),
        ),
        Order(
            "too-large-is-worse-sgd",
            "Glow, SGD: a weight of 1 needs more bits than 1e-3",
            where={"optimizer": "sgd", "lam": 1.0},
            unit="bits/dim",
            less=0.0,
            greater=Pick("excess"),
        ),
        Equivalence(
            "flat-when-detached",
            "Glow, guider input detached: the weight makes no difference within 0.01",
            over=("lam",),
            where={**_ADAMAX, "detach": "yes"},
            unit="bits/dim",
            a=Pick("excess"),
            b=0.0,
            margin=MARGIN,
        ),
        Equivalence(
            "flat-as-published",
            "Glow, guider input not detached: weights up to 1e-2 make no difference within 0.01",
            over=("lam",),
            where={**_ADAMAX, "detach": "no", "lam": (0.0, 1e-5, 1e-4, 1e-2)},
            unit="bits/dim",
            a=Pick("excess"),
            b=0.0,
            margin=MARGIN,
        ),
        Identity(
            "zero-weight-keeps-the-start",
            "At weight 0 the solver stays as it was initialised",
            where={**_ADAMAX, "lam": 0.0},
            tiers=("smoke", "small", "gpu"),
            metric="logits_moved_1",
            equals=0.0,
        ),
        Order(
            "zero-weight-is-not-uniform",
            "At weight 0 the solver's distribution is not uniform: H(Q) below 0.95 log C",
            where={**_ADAMAX, "lam": 0.0, "detach": "no"},
            less=Pick("H_Q_2"),
            greater=0.95,
            paper="uniform as the weight goes to 0",
        ),
    ),
    figure="reproduce.eiw_flow.sweep_figures:weights",
    how="Solver and guider get gradients from the order's term alone, whose weight Adamax divides "
    "out; features are reached by it only where the guider's input is not detached.",
)

# -------------------------------------------------------------------------------- solver


def solver_arms(tier: str) -> list[Arm]:
    data = "cifar10" if tier == "paper" else "digits"
    reductions = (2, 4, 8, 16)
    sizes = [(1, 4), (2, 4)] if tier == "smoke" else [(depth, 4) for depth in (1, 2, 3, 4)]
    if tier != "smoke":
        sizes += [(2, r) for r in reductions if r != 4]
    found = []
    for depth, reduction in sizes:
        changes = {
            f"{_NET}.order_args.solver_depth": depth,
            # 4 is what the YAML's null stands for here: that cell is every target's
            f"{_NET}.order_args.reduction": None if reduction == 4 else reduction,
        }
        made = arm(data, "eiw", *recipe(tier, data), changes=changes)
        found.append(replace(made, axes={"depth": depth, "reduction": reduction}))
    return found


SOLVER = Target(
    id="eiw-solver",
    paper="eiw-flow",
    title="Sizes of solver and guider",
    question="Does a deeper solver or a wider guider buy anything but parameters?",
    reference="T-G; solver depth and reduction",
    config="eiw_flow",
    arms=solver_arms,
    seeds={"smoke": 1, "small": 5, "gpu": 5, "paper": 1},
    evaluators=(LIKELIHOOD, ORDERS),
    metrics={
        "bpd": "bits/dim",
        "bpd_iw16": "bits/dim",
        "order_parameters": "",
        "Q_P_1": "",
        "Q_P_2": "",
    },
    claims=(
        Equivalence(
            "deeper-buys-little",
            "A solver of four layers needs as many bits as one of two within 0.01",
            where={"reduction": 4},
            unit="bits/dim",
            a=Pick("bpd_iw16", {"depth": 4}),
            b=Pick("bpd_iw16", {"depth": 2}),
            margin=MARGIN,
            paper="deeper brings little",
        ),
        Equivalence(
            "one-layer-suffices",
            "A solver of one layer needs as many bits as one of two within 0.01",
            where={"reduction": 4},
            unit="bits/dim",
            a=Pick("bpd_iw16", {"depth": 1}),
            b=Pick("bpd_iw16", {"depth": 2}),
            margin=MARGIN,
        ),
        Equivalence(
            "wider-buys-little",
            "A guider of reduction 2 needs as many bits as one of 16 within 0.01",
            where={"depth": 2},
            unit="bits/dim",
            a=Pick("bpd_iw16", {"reduction": 2}),
            b=Pick("bpd_iw16", {"reduction": 16}),
            margin=MARGIN,
            paper="a small reduction risks overfitting",
        ),
    ),
    figure="reproduce.eiw_flow.sweep_figures:sizes",
)

TARGETS = (LAMBDA, SOLVER)
