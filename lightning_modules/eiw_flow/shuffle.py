"""Shuffle: the order of channels before a split, learned by a solver that a guider teaches."""

import math
from itertools import pairwise
from typing import Literal

from lightning_modules.eiw_flow.entropy import spacing_entropy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["MODES", "ChannelOrder", "Guider", "Solver", "channel_entropy", "order_kl"]

LEARNED = ("eiw", "eiw_snapshot", "param", "ste")
MODES = ("identity", "reverse", "random", "blocks", *LEARNED, "oracle_entropy", "anti_oracle")
INPUTS = {"raw": float, "unit": lambda channels: 1.0, "log": math.log}

Kl = Literal["paper", "reverse", "snapshot"]
Logits = Float[Tensor, "*batch C"]


class Solver(nn.Module):
    """S: logits over channels from nothing but their number (section 4.2; the authors' code).

    Linear layers without bias, ReLU between, hidden width C // 2. The input is a constant, so
    the output is a learnable vector; ``raw`` counts, as in the code, saturate its softmax.

    Args:
        channels: C.
        depth: number of linear layers (authors: 2).
        input: ``raw`` (C), ``unit`` (1) or ``log`` (log C).
    """

    def __init__(self, channels: int, depth: int = 2, input: str = "raw") -> None:
        super().__init__()
        if depth < 1 or input not in INPUTS:
            raise ValueError(f"a solver has depth >= 1 and an input of {', '.join(INPUTS)}")
        widths = [1, *[max(1, channels // 2)] * (depth - 1), channels]
        self.layers = nn.ModuleList(nn.Linear(i, o, bias=False) for i, o in pairwise(widths))
        self.value = INPUTS[input](channels)

    def forward(self) -> Float[Tensor, " C"]:
        h = self.layers[0].weight[:, 0] * self.value
        for layer in self.layers[1:]:
            h = layer(h.relu())
        return h


class FreeLogits(nn.Module):
    """Logits that are parameters, which is what a solver amounts to; they start as its output.

    Like a solver's they carry its input as a factor: an optimizer whose steps do not depend on
    scale then moves them as fast.
    """

    def __init__(self, solver: Solver) -> None:
        super().__init__()
        self.value = solver.value
        self.weight = nn.Parameter(solver().detach() / solver.value)

    def forward(self) -> Float[Tensor, " C"]:
        return self.value * self.weight


class Guider(nn.Sequential):
    """G: logits over channels from their means, one set per sample (section 4.3).

    Hidden width C // r, at least 1 (authors: r = 16); no biases.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        hidden = max(1, channels // reduction)
        super().__init__(
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, channels, bias=False),
        )

    def forward(self, u: Float[Tensor, "batch C H W"]) -> Float[Tensor, "batch C"]:
        return super().forward(u.mean((2, 3)))


def order_kl(
    p: Float[Tensor, "batch C"], q: Float[Tensor, " C"], kind: Kl = "paper"
) -> Float[Tensor, ""]:
    """The term that draws solver (logits ``q``) and guider (logits ``p``) together; nats.

    ``paper``: mean over the batch of KL(P || Q). ``reverse``: KL(Q || P). ``snapshot``: what the
    public code computes, ``sum Q (log Q - P)`` with probabilities P, which is neither and may be
    negative; here a channel whose Q is 0 in float32 adds nothing, in the code its gradient is NaN.
    """
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    if kind == "paper":
        return (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    if kind == "reverse":
        return (log_q.exp() * (log_q - log_p)).sum(-1).mean()
    return (log_q.exp() * (log_q - log_p.exp())).sum(-1).mean()


@torch.no_grad()
def channel_entropy(u: Float[Tensor, "batch C H W"]) -> Float[Tensor, " C"]:
    """Differential entropy of each channel's values, in nats, by Vasicek's spacings.

    All positions and samples of a channel are one sample of size n; m = round(sqrt(n)).
    """
    return spacing_entropy(u.transpose(0, 1).flatten(1))


class ChannelOrder(nn.Module):
    """A permutation of C channels; the first half of the result is kept, the rest factored out.

    The permutation in use is the buffer ``perm``: it is computed anew at each forward pass in
    training, and evaluation, sampling and a reloaded model use what is stored, so that a model is
    always inverted by the order it was read with. Ties are sorted stably.

    Args:
        channels: C.
        mode: ``identity``; ``reverse``; ``random`` (by ``seed``); ``blocks``, random too, but
            the four channels that Squeeze made of one stay together, as in ``identity``; ``eiw``,
            the learned order with KL(P || Q); ``eiw_snapshot``, with the term as the public code
            computes it, the guider reading channels that are sorted already; ``param``, free
            logits instead of the solver; ``ste``, whose logits get a gradient from the likelihood
            too; ``oracle_entropy``, a running estimate of each channel's entropy, lowest first;
            ``anti_oracle``, highest first.
        solver_depth, solver_input, reduction: of Solver and Guider; the reduction is 16 (authors)
            if there are 64 channels or more, else 4, where nothing is given.
        kl: ``paper``, ``reverse`` or ``snapshot``, where the mode learns.
        detach: the term does not reach the features (authors: it does).
        perm_seed: of ``random`` and ``blocks``, which depend on the model's seed too.

    One draw of the global generator seeds Solver and Guider, in every mode, so that all modes
    leave the same generator behind and the same backbone is built after them.

    Raises:
        ValueError: an unknown mode.
    """

    def __init__(
        self,
        channels: int,
        mode: str = "identity",
        solver_depth: int = 2,
        solver_input: str = "raw",
        reduction: int | None = None,
        kl: str = "paper",
        detach: bool = False,
        perm_seed: int = 0,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"unknown channel order {mode!r}: choose one of {', '.join(MODES)}")
        self.mode, self.detach = mode, detach
        self.kind: Kl = "snapshot" if mode == "eiw_snapshot" else kl
        self.frozen = False
        self.solver = self.guider = None
        seed = int(torch.randint(2**31, (), device="cpu"))
        with torch.random.fork_rng():
            torch.manual_seed(seed + perm_seed)
            shuffled = torch.randperm(channels)
            first = {
                "reverse": torch.arange(channels).flip(0),
                "random": shuffled,
                "blocks": _blocks(shuffled),
            }
            perm = first.get(mode, torch.arange(channels))
            if mode in LEARNED:
                solver = Solver(channels, solver_depth, solver_input)
                self.guider = Guider(channels, reduction or (16 if channels >= 64 else 4))
                self.solver = FreeLogits(solver) if mode == "param" else solver
                self.register_buffer("first_logits", self.solver().detach().clone())
                perm = _descending(self.first_logits)
        self.register_buffer("perm", perm)
        self.register_buffer("initial", perm.clone())
        self.register_buffer("crossed", torch.tensor(0))  # channels that changed sides, in all
        if mode in ("oracle_entropy", "anti_oracle"):
            self.register_buffer("entropy", torch.zeros(channels))
            self.register_buffer("seen", torch.tensor(0.0))

    def forward(self, u: Float[Tensor, "batch C H W"]) -> Float[Tensor, "batch C H W"]:
        """``u`` with its channels in order."""
        if self.training and not self.frozen:
            self._update(u)
        if self.mode == "identity":
            return u
        v = u[:, self.perm]
        return self._with_gradient(v) if self.mode == "ste" and self.training else v

    def inverse(self, v: Float[Tensor, "batch C H W"]) -> Float[Tensor, "batch C H W"]:
        return v if self.mode == "identity" else v[:, self.perm.argsort()]

    def kl(
        self, u: Float[Tensor, "batch C H W"], v: Float[Tensor, "batch C H W"]
    ) -> Float[Tensor, ""]:
        """The order's term of the objective, in nats; 0 where nothing is learned."""
        if self.guider is None:
            return u.new_zeros(())
        seen = v if self.mode == "eiw_snapshot" else u
        return order_kl(
            self.guider(seen.detach() if self.detach else seen), self.solver(), self.kind
        )

    def weights(self) -> Float[Tensor, " C"] | None:
        """Q, the solver's distribution over channels; None where nothing is learned."""
        return None if self.solver is None else self.solver().softmax(-1)

    @property
    def kept(self) -> Int[Tensor, " half"]:
        """The channels that flow on."""
        return self.perm[: len(self.perm) // 2]

    @torch.no_grad()
    def _update(self, u: Tensor) -> None:
        if self.solver is not None:
            self._set(self.solver())
        elif self.mode in ("oracle_entropy", "anti_oracle"):
            self.seen.mul_(0.99).add_(0.01)  # bias-corrected running mean of decay 0.99
            self.entropy.lerp_(channel_entropy(u).to(self.entropy), 0.01 / self.seen)
            self._set(self.entropy if self.mode == "anti_oracle" else -self.entropy)

    def _set(self, weights: Tensor) -> None:
        before = self.perm.argsort()
        self.perm.copy_(_descending(weights))
        half = len(self.perm) // 2
        self.crossed += ((before < half) != (self.perm.argsort() < half)).sum()

    def _with_gradient(self, v: Tensor) -> Tensor:
        """Multiply what is kept by one, a one whose gradient is the channels' importance."""
        importance = len(self.perm) * self.solver().softmax(-1)
        gate = (1 + (importance - importance.detach()))[self.perm][
            : len(self.perm) // 2, None, None
        ]
        return torch.cat([v[:, : len(gate)] * gate, v[:, len(gate) :]], 1)


def _descending(weights: Float[Tensor, " C"]) -> Int[Tensor, " C"]:
    return weights.detach().argsort(descending=True, stable=True)


def _blocks(shuffled: Int[Tensor, " C"]) -> Int[Tensor, " C"]:
    """Channels by fours, the fours in the order in which their first channels are shuffled."""
    channel = torch.arange(len(shuffled))
    place = shuffled.argsort()[channel - channel % 4]  # of its four's first channel
    return (4 * place + channel % 4).argsort()
