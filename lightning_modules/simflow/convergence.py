"""Which blocks can be solved in parallel, told before a sample is drawn (arXiv 2505.12849)."""

from lightning_modules.simflow.flow import TokenFlow

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["convergence_ranking", "guessing_metric"]

Tokens = Float[Tensor, "batch T C"]
Labels = Int[Tensor, " batch"] | Float[Tensor, "batch P E"] | None


@torch.no_grad()
def guessing_metric(
    flow: TokenFlow, x: Tokens, y: Labels = None
) -> dict[str, Float[Tensor, " blocks"]]:
    """``|| mean over the batch of (z sigma(x0) + m(x0) - x) ||`` of each block, for both guesses.

    How far one correction of the guess ``x0`` is from the truth, on data whose latents are known:
    the smaller guess is the better one to start from.
    """
    trace: list[Tensor] = []
    flow(x, y, trace=trace)
    found = {"z": [], "zero": []}
    for block, inside, outside in zip(flow.blocks, trace, trace[1:], strict=False):
        truth, z = block.ordered(inside), block.ordered(outside)
        zero = torch.zeros_like(z)
        zero[:, 0] = z[:, 0]
        for name, guess in (("z", z), ("zero", zero)):
            log_scale, m = block.window(guess[:, :-1], block.condition(y, len(x)))
            error = z * log_scale.exp() + m - truth
            found[name].append(error.mean(0).norm())
    return {name: torch.stack(values) for name, values in found.items()}


@torch.no_grad()
def convergence_ranking(flow: TokenFlow, x: Tokens, y: Labels = None) -> Float[Tensor, " blocks"]:
    """``|| mean of x / sigma || ||W_a|| + ||W_m||`` of each block: the greatest converge last.

    Norms are Frobenius'; ``W_a`` and ``W_m`` are the output layer's two halves.
    """
    trace: list[Tensor] = []
    flow(x, y, trace=trace)
    found = []
    for block, inside in zip(flow.blocks, trace, strict=False):
        truth = block.ordered(inside)
        log_scale, _ = block.window(truth[:, :-1], block.condition(y, len(x)))
        *scales, means = block.proj_out.weight.split(truth.shape[2])
        spread = (truth * torch.exp(-log_scale)).mean(0).norm()
        found.append(spread * sum(w.norm() for w in scales) + means.norm())
    return torch.stack(found)
