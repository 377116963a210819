"""Images or latent maps as sequences of tokens."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["to_map", "to_tokens"]

Maps = Float[Tensor, "batch C H W"]
Tokens = Float[Tensor, "batch T D"]


def to_tokens(x: Maps, patch: int = 1, order: str = "channel") -> Tokens:
    """Row-major patches, each one token of C patch^2 features.

    Args:
        order: of the features: ``channel``, row, column (TarFlow) or row, column, channel:
            ``pixel`` (STARFlow). With patches of one pixel both are the same.

    Raises:
        ValueError: sides that patches do not divide.
    """
    if x.shape[2] % patch or x.shape[3] % patch:
        raise ValueError(
            f"patches of {patch} do not divide {x.shape[2]} x {x.shape[3]} pixels: "
            "choose another patch or size"
        )
    x = F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)
    if order == "pixel" and patch > 1:
        x = x.unflatten(2, (-1, patch * patch)).transpose(2, 3).flatten(2)
    return x


def to_map(tokens: Tokens, grid: tuple[int, int], patch: int = 1, order: str = "channel") -> Maps:
    """The inverse of ``to_tokens``."""
    if order == "pixel" and patch > 1:
        tokens = tokens.unflatten(2, (patch * patch, -1)).transpose(2, 3).flatten(2)
    x = tokens.transpose(1, 2).unflatten(2, tuple(grid))
    return F.pixel_shuffle(x, patch)
