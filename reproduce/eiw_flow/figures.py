"""What the arms of EIW-Flow are called in figures."""

__all__ = ["BACKBONES", "DATA", "MODES", "RANDOM"]

RANDOM = "random"
MODES = {
    "identity": "vanilla",
    "reverse": "reversed",
    RANDOM: "random",
    "blocks": "random, in whole blocks",
    "eiw": "Shuffle",
    "eiw_snapshot": "Shuffle, public code",
    "param": "free logits",
    "ste": "straight-through",
    "oracle_entropy": "oracle: low entropy kept",
    "anti_oracle": "anti-oracle: high kept",
}
DATA = {
    "noise": "noise",
    "digits": "digits",
    "mnist16": "MNIST, 16 px",
    "tiny16": "Tiny ImageNet, 16 px",
    "cifar16": "CIFAR-10, 16 px",
    "cifar32": "CIFAR-10 (JPEG), 32 px",
    "cifar10": "CIFAR-10",
    "imagenet32": "ImageNet, 32 px",
    "imagenet64": "ImageNet, 64 px",
    "celeba": "CelebA, 64 px",
}
BACKBONES = {"glow": "Glow", "dense": "DenseFlow", "cnf": "continuous"}
