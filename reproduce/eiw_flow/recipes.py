"""How long and how wide a flow is trained, by tier and data: fixed before the first run."""

from typing import Any

from reproduce.eiw_flow.arms import GLOW, tuned

__all__ = ["recipe"]

_DENSE = "eiw_flow_dense"

# updates and widths of the Glow backbone; one epoch of digits is 24 batches of 64
_GLOW: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": {"digits": tuned(20, steps=1, hidden=8), "noise": tuned(20, steps=1, hidden=8)},
    "small": {
        "digits": tuned(1500, steps=4, hidden=32),
        "noise": tuned(1500, steps=4, hidden=32),
        "mnist16": tuned(1500, steps=4, hidden=32),
        "tiny16": tuned(1500, steps=4, hidden=32),
        "cifar16": tuned(1500, steps=4, hidden=32),
    },
    "gpu": {
        "digits": tuned(1500, steps=4, hidden=32),
        "mnist16": tuned(5000, steps=8, hidden=64),
        "tiny16": tuned(5000, steps=8, hidden=64),
        "cifar16": tuned(5000, steps=8, hidden=64),
        "noise": tuned(1500, steps=4, hidden=32),
        "cifar32": tuned(20_000, steps=8, hidden=128),
    },
}


def recipe(tier: str, data: str) -> tuple[dict[str, Any], str]:
    """Overrides and the YAML's stem: Glow, and at tier ``paper`` the authors' DenseFlow."""
    if tier == "paper":  # as in the YAML: 400 epochs of 782 updates, 20 of fine-tuning
        return {"trainer.max_steps": 328_440, "marks.updates": [328_440]}, _DENSE
    return _GLOW[tier][data], GLOW
