"""ne-datasets: the headline on other images."""

from reproduce.neural_entropy.samples import STORED, headline
from reproduce.target import Arm, Order, Pick, Target

__all__ = ["TARGETS"]

# (first images of each class, N): CIFAR-10 has ten classes, Tiny ImageNet two hundred
_SETS = {
    "cifar10_lossless": ((10, 100), (100, 1000), (400, 4000)),
    "tiny_imagenet": ((1, 200), (5, 1000), (20, 4000)),
}


def _arm(source: str, per_class: int, n: int, tier: str) -> Arm:
    size, colours, split = (8, 1, "test") if source == "digits" else (16, 3, "test")
    split = "val" if source == "tiny_imagenet" else split
    net = {
        "image_size": size,
        "in_channels": colours,
        "base_channels": {"smoke": 8, "small": 16}.get(tier, 64),
        "multipliers": [1, 1],
        "num_res_blocks": 1,
        "attention_at": [size // 2],
        "dropout": 0.0,
        "classes": 0,
    }
    return Arm(
        {"data": source, "process": "vp", "N": n},
        {
            "model.init_args.net": {
                "class_path": "lightning_modules.neural_entropy.AttentionUNet",
                "init_args": net,
            },
            "data.init_args.source": source,
            "data.init_args.size": None if source == "digits" else size,
            "data.init_args.eval_split": split,
            "data.init_args.n_per_class": per_class,
        },
    )


def arms(tier: str) -> list[Arm]:
    if tier == "smoke":
        return [_arm("digits", 4, 40, tier)]
    return [_arm(source, c, n, tier) for source, ns in _SETS.items() for c, n in reversed(ns)]


_OVER = ("data",)
_READINGS = (("epochs", "Equal epochs"), ("updates", "Equal updates"))


DATASETS = Target(
    id="ne-datasets",
    paper="neural-entropy",
    title="Neural entropy against N on other images",
    question="Do natural images of other kinds show the same growth with N, and does it survive "
    "the control?",
    reference="T15; open question of the paper",
    config="neural_entropy_datasets",
    arms=arms,
    seeds={"smoke": 1, "small": 5, "gpu": 5, "paper": 4},
    evaluators=(STORED,),
    metrics={
        "S_NN": "nats",
        "S_NN_se": "nats",
        "doubling": "S_NN",
        "converged": "",
        **{
            f"{name}_{reading}": unit
            for reading, _ in _READINGS
            for name, unit in {
                "S_NN_at_equal": "nats",
                "growth": "",
                "log_slope": "nats per e-fold of N",
                "R2_log": "",
                "R2_linear": "",
                "log_growth": "",
            }.items()
        },
    },
    index="updates",
    derive="reproduce.neural_entropy.laws:readings",
    claims=(
        *(claim for reading, words in _READINGS for claim in headline(reading, words, _OVER)),
        Order(
            "epochs-make-the-growth",
            "Control: S_NN grows more with N at equal epochs than at equal updates",
            over=_OVER,
            less=Pick("growth_updates"),
            greater=Pick("growth_epochs"),
        ),
    ),
    figure="reproduce.neural_entropy.image_figures:samples",
    how="As ne-samples, on images averaged down to 16 x 16, by a small unconditional U-Net with "
    "attention that starts at zero: `_epochs` after 10 epochs each (50 at tier paper), `_updates` "
    "after the last update, at small 1250, which is 10 epochs of the largest N.",
    departures=(
        "Not in the paper. Fashion-MNIST is not to be had here; CIFAR-10 (lossless, N up to 4000) "
        "and Tiny ImageNet (the first of each class) stand in. CelebA and ImageNet are out of "
        "reach of two cores.",
        "small: learning rate 1e-3, base width 16.",
        "N grows 20 and 40 times here, not 500 times as the paper's claim of less than fivefold "
        "growth asks.",
    ),
)

TARGETS = (DATASETS,)
