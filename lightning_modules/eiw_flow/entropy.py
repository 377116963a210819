"""Expected entropy of features: does what a flow factors out have more of it than what it keeps?

Features ``u`` are (M, C, H, W): M images, C H W elements. Entropies are differential, in nats, and
computed in float64. E2 and R2E2 are the paper's names (Theorem 3, Table 1), but its definitions
were not available: those here are ours. Raw entropy tells mostly of variance, which the paper's
argument holds fixed; hence the standardised one and negentropy beside it.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "ESTIMATORS",
    "Entropies",
    "check_features",
    "entropies",
    "gain",
    "gauss_entropy",
    "knn_entropy",
    "r2e2",
    "spacing_entropy",
    "spread",
]

GAUSS = 0.5 * math.log(2 * math.pi * math.e)  # entropy of N(0, 1), nats
Features = Float[Tensor, "M C H W"]


# ------------------------------------------------------------------ entropy of rows of values
def spacing_entropy(x: Float[Tensor, "D M"]) -> Float[Tensor, " D"]:
    """Vasicek's estimate from spacings of m = round(sqrt(M)) on either side, in nats.

    No bias correction: the usual ones, exact for a uniform density, make it worse for others. Its
    bias at M = 1024 / 10 000 is -0.01 / 0.00 for a Gaussian, +0.01 / +0.01 for Laplace,
    -0.03 / -0.01 for a uniform density; it grows where a window spans a gap between modes
    (+0.05 / +0.02 for two modes eight standard deviations apart). Keeps the type of ``x``.
    """
    x = x.sort(1).values
    n = x.shape[1]
    m = max(1, min(round(math.sqrt(n)), (n - 1) // 2))
    i = torch.arange(n, device=x.device)
    spacing = x[:, (i + m).clamp(max=n - 1)] - x[:, (i - m).clamp(min=0)]
    return (n / (2 * m) * spacing).clamp_min(1e-12).log().mean(1)


def knn_entropy(x: Float[Tensor, "D M"], k: int = 3) -> Float[Tensor, " D"]:
    """Kozachenko and Leonenko's estimate from the distance to the k-th neighbour, in nats.

    ``psi(M) - psi(k) + log 2 + mean log distance``: less bias and more variance than spacings.

    Raises:
        ValueError: M <= k.
    """
    x = x.sort(1).values
    n = x.shape[1]
    if n <= k:
        raise ValueError(f"{n} values have no {k}-th neighbours: give more than {k}")
    ends = [x.new_full((len(x), k), end) for end in (-math.inf, math.inf)]
    padded = torch.cat([ends[0], x, ends[1]], 1)
    distance = torch.full_like(x, math.inf)
    for left in range(k + 1):  # the k nearest of sorted values: `left` below, the others above
        low, high = padded[:, k - left :][:, :n], padded[:, 2 * k - left :][:, :n]
        distance = distance.minimum(torch.maximum(x - low, high - x))
    psi = torch.digamma(torch.tensor([n, k], dtype=torch.float64)).tolist()
    return psi[0] - psi[1] + math.log(2) + distance.clamp_min(1e-12).log().mean(1)


def gauss_entropy(x: Float[Tensor, "D M"]) -> Float[Tensor, " D"]:
    """``0.5 log(2 pi e s^2)`` in nats: the most that values of this variance can have."""
    return GAUSS + x.std(1).log()


ESTIMATORS = {"spacing": spacing_entropy, "knn": knn_entropy, "gauss": gauss_entropy}


# ------------------------------------------------------------------ expected entropy
@dataclass(frozen=True)
class Entropies:
    """Entropy of each element of features, and what it comes to.

    The means leave out elements that are constant over the images: these have no density.

    Attributes:
        entropy: nats; minus infinity where an element is constant.
        std: standard deviation over the images.
    """

    entropy: Float[Tensor, "C H W"]
    std: Float[Tensor, "C H W"]

    @property
    def constant(self) -> int:
        """Elements left out of the means."""
        return int((self.std == 0).sum())

    @property
    def negentropies(self) -> Float[Tensor, "C H W"]:
        """``J_d = 0.5 log(2 pi e s_d^2) - H_d`` >= 0 up to the estimator's error, nats.

        0 for a Gaussian whatever its variance; NaN where an element is constant.
        """
        return GAUSS + self.std.log() - self.entropy

    @property
    def expected(self) -> float:
        """E2, the mean of H_d over elements, in nats. Variance dominates it."""
        return self._mean(self.entropy)

    @property
    def standardised(self) -> float:
        """E2 once each element is divided by its standard deviation; at most 1.419 nats."""
        return self._mean(self.entropy - self.std.log())

    @property
    def negentropy(self) -> float:
        """The mean of J_d over elements, in nats: the distance from Gaussian, free of scale."""
        return self._mean(self.negentropies)

    @property
    def mean_variance(self) -> float:
        """The mean variance of all elements."""
        return float(self.std.square().mean())

    def _mean(self, values: Tensor) -> float:
        return float(values[self.std > 0].mean())


@torch.no_grad()
def entropies(u: Features, estimator: str = "spacing", block: int = 2**21) -> Entropies:
    """Entropy of each element of ``u`` over its M images.

    Elements are standardised, get a jitter of 1e-6 standard deviations against ties, and ``log s``
    is added back, so that shift and scale are exact. Values that do repeat are no density: their
    estimate then tells of the jitter. From M = 1024 on the error of a mean over elements is below
    0.05 nat, but see ``spacing_entropy``.

    Args:
        estimator: a name of ``ESTIMATORS``.
        block: values held in float64 at a time.

    Raises:
        ValueError: an unknown estimator, fewer than 8 images, values that are not finite, or
            only constant elements.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"unknown estimator {estimator!r}: choose one of {', '.join(ESTIMATORS)}")
    check_features(u)
    rng = torch.Generator().manual_seed(0)
    jitter = 1e-6 * torch.rand(len(u), generator=rng, dtype=torch.float64).to(u.device)
    entropy, std = [], []
    for part in u.flatten(1).split(max(1, block // len(u)), 1):
        x = part.T.double()
        s = spread(x)
        x = (x - x.mean(1, keepdim=True)) / s.masked_fill(s == 0, 1)[:, None] + jitter
        entropy.append(ESTIMATORS[estimator](x) + s.log())
        std.append(s)
    found = Entropies(torch.cat(entropy).view(u.shape[1:]), torch.cat(std).view(u.shape[1:]))
    if found.constant == found.std.numel():
        raise ValueError("all features are constant over the images: they have no entropy")
    return found


def spread(x: Float[Tensor, "rows n"]) -> Float[Tensor, " rows"]:
    """Standard deviation of each row; exactly 0 of a constant one, however its mean is rounded."""
    return x.std(1).masked_fill(x.amin(1) == x.amax(1), 0)


def r2e2(x: Entropies, z: Entropies, standardised: bool = False) -> tuple[float, float]:
    """R2E2 = (E2(z) - E2(x)) / |E2(x)|, and the difference itself in nats (our definition).

    E2 may be 0 or negative: read the ratio with the difference beside it. NaN where E2(x) = 0.

    Args:
        x, z: of what is kept and what is factored out.
        standardised: of elements divided by their standard deviations.
    """
    of, to = (e.standardised if standardised else e.expected for e in (z, x))
    return _relative(of, to), of - to


def gain(value: float, vanilla: float) -> float:
    """The gain of one R2E2 over another in percent, ``100 (a - b) / |b|``; NaN where b is 0."""
    return 100 * _relative(value, vanilla)


def _relative(a: float, b: float) -> float:
    return (a - b) / abs(b) if b else math.nan


def check_features(u: Features) -> None:
    """Raise ValueError at fewer than 8 images, or values that are not finite."""
    if len(u) < 8:
        raise ValueError(f"{len(u)} images are too few to measure features: give at least 8")
    if not u.isfinite().all():
        raise ValueError("features hold values that are not finite: the model has diverged")
