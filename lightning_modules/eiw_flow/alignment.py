"""What a channel order does: the information it keeps, and whether it follows entropy.

An order ``perm`` (C,) lists channels as they stand after Shuffle: the first C // 2 are kept (x_k),
the rest factored out (z_k). ``q`` and ``p`` are the solver's and the guider's weights, which add
to one over channels. Means and correlations have no unit; all is computed in float64.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

__all__ = [
    "class_probe",
    "crossings",
    "factored_mass",
    "kept_overlap",
    "normalised_entropy",
    "order_spearman",
    "pixel_probe",
    "spearman",
]

Order = Int[Tensor, " C"]


# ------------------------------------------------------------------ information at a split
def factored_mass(p: Float[Tensor, "N C"], perm: Order | None = None) -> float:
    """Information loss: ``mean over samples of sum over c in z_k of P_c``, in [0, 1].

    Our reading of Theorem 2 (section 5.2). The order that sorts by mean P has the least mass of
    all orders by construction, which is an invariant and says nothing about density.

    Args:
        p: the guider's weights of each sample.
        perm: the order; the static one, channels as they come, without.

    Raises:
        ValueError: rows that do not add to one (logits?), or no permutation.
    """
    p = p.double()
    if len(p) == 0 or not torch.allclose(p.sum(1), p.new_ones(()), atol=1e-2):
        raise ValueError("a guider's weights add to one for each sample: give their softmax")
    perm = torch.arange(p.shape[1]) if perm is None else perm
    return float(p[:, ~_is_kept(perm).to(p.device)].sum(1).mean())


def pixel_probe(
    features: Float[Tensor, "N ..."],
    pixels: Num[Tensor, "N ..."],
    held_out: float = 0.25,
    seed: int = 0,
) -> float:
    """R^2 of a ridge regression of images from features, on rows held out; at most 1.

    Squared errors are added over pixels before they are divided, so that a pixel counts by its
    variance and a constant one not at all. The penalty is chosen by leave-one-out error. Features
    of equal N, seed and share are probed on the same rows.

    Raises:
        ValueError: fewer than 20 rows.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import r2_score

    x, x_test, y, y_test = _split(features, _rows(pixels), held_out, seed)
    predicted = _probe(RidgeCV(PENALTIES)).fit(x, y).predict(x_test)
    return float(
        r2_score(y_test, predicted.reshape(y_test.shape), multioutput="variance_weighted")
    )


def class_probe(
    features: Float[Tensor, "N ..."],
    labels: Int[Tensor, " N"],
    held_out: float = 0.25,
    seed: int = 0,
) -> float:
    """Accuracy of a ridge classifier of labels from features, on rows held out; in [0, 1].

    Raises:
        ValueError: fewer than 20 rows, or a single class.
    """
    from sklearn.linear_model import RidgeClassifierCV

    if len(labels.unique()) < 2:
        raise ValueError("one class alone cannot be told apart: give rows of several")
    x, x_test, y, y_test = _split(features, labels.cpu().numpy(), held_out, seed)
    return float(_probe(RidgeClassifierCV(PENALTIES)).fit(x, y).score(x_test, y_test))


PENALTIES = np.logspace(-2, 5, 8)


def _probe(ridge):
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), ridge)


def _rows(x: Tensor) -> np.ndarray:
    return x.detach().flatten(1).double().cpu().numpy()


def _split(features: Tensor, y: np.ndarray, held_out: float, seed: int) -> list[np.ndarray]:
    from sklearn.model_selection import train_test_split

    if len(y) < 20:
        raise ValueError(f"{len(y)} rows are too few for a probe: give at least 20")
    return train_test_split(_rows(features), y, test_size=held_out, random_state=seed)


# ------------------------------------------------------------------ order, weights and entropy
def spearman(a: Float[Tensor, " C"], b: Float[Tensor, " C"]) -> float:
    """Rank correlation, ties at their mean rank; NaN where one of the two is constant.

    Of a solver give the logits: its softmax saturates, and ties among its zeros hide the order.
    """
    from scipy.stats import spearmanr

    a, b = (v.detach().double().cpu().numpy() for v in (a, b))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(spearmanr(a, b).statistic)


def order_spearman(perm: Order, entropy: Float[Tensor, " C"]) -> float:
    """Rank correlation of the rank of keeping with minus the channels' entropies.

    1 where the channels of least entropy come first, as in ``oracle_entropy``.

    Args:
        entropy: of each channel, in nats.

    Raises:
        ValueError: no permutation.
    """
    _is_kept(perm)
    return spearman(-perm.argsort().double(), -entropy)


def normalised_entropy(weights: Float[Tensor, " C"]) -> float:
    """``H(weights) / log C``: 1 for equal weights, 0 where one channel has all.

    Of several samples' P give the mean.

    Raises:
        ValueError: fewer than two channels, or weights that do not add to one (logits?).
    """
    weights = weights.detach().double()
    if len(weights) < 2 or abs(float(weights.sum()) - 1) > 1e-2:
        raise ValueError("weights of two channels or more add to one: give their softmax")
    return float(torch.special.entr(weights).sum()) / math.log(len(weights))


def crossings(before: Order, after: Order) -> int:
    """Channels kept by one of two orders and factored out by the other (an even number).

    Raises:
        ValueError: no permutation.
    """
    return int((_is_kept(before) != _is_kept(after)).sum())


def kept_overlap(one: Order, other: Order) -> float:
    """Share of the channels kept by one order that the other keeps too, in [0, 1].

    Raises:
        ValueError: no permutation.
    """
    both = _is_kept(one) & _is_kept(other)
    return int(both.sum()) / (len(one) // 2)


def _is_kept(perm: Tensor) -> Tensor:
    if not torch.equal(perm.sort().values, torch.arange(len(perm)).to(perm)):
        raise ValueError("an order lists each channel once")
    return perm.argsort() < len(perm) // 2
