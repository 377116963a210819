"""Gaussian mixtures with exact densities and scores, and the DataModule of the transport runs.

Diffusing a mixture of isotropic Gaussians gives another one, so every quantity that Neural Entropy
bounds has an exact value here: the only data on which its claims can be checked without error.
"""

import hashlib
import math
from dataclasses import dataclass

from datamodules.batches import Chunks, StepBatches, generator
from datamodules.sources import DataError

import lightning as L
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

__all__ = ["MIXTURES", "GaussianMixture", "MixtureData"]


@dataclass(frozen=True)
class GaussianMixture:
    """``sum_k w_k N(m_k, h_k^2 I)`` in D dimensions; float64, log-densities in nats.

    ``means`` is (K, D) and ``stds`` (K); both may carry leading batch dimensions, one mixture
    per row of the points they are evaluated on (that is what ``diffused`` at many times returns).
    """

    weights: Float[Tensor, " K"]
    means: Float[Tensor, "*batch K D"]
    stds: Float[Tensor, "*batch K"]

    @classmethod
    def named(cls, name: str) -> "GaussianMixture":
        """A mixture of ``MIXTURES`` by name, weights renormalised, float64.

        Raises:
            DataError: no such mixture.
        """
        if name not in MIXTURES:
            raise DataError(f"unknown mixture {name!r}: choose one of {', '.join(MIXTURES)}")
        weights, means, stds = (torch.tensor(v, dtype=torch.float64) for v in MIXTURES[name])
        return cls(weights / weights.sum(), means, stds)

    @property
    def dim(self) -> int:
        return self.means.shape[-1]

    def to(self, device: torch.device | str) -> "GaussianMixture":
        """The same mixture on another device."""
        parts = (self.weights, self.means, self.stds)
        return GaussianMixture(*(part.to(device) for part in parts))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n D"]:
        """``n`` independent points; only for a mixture without batch dimensions."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.dim, dtype=self.means.dtype, generator=generator)
        return self.means[k] + self.stds[k, None] * z

    def _log_joint(self, x: Tensor) -> Tensor:
        """``log w_k + log N(x; m_k, h_k^2)``: (..., K)."""
        square = (x.unsqueeze(-2) - self.means).square().sum(-1)
        log_norm = self.dim * (self.stds.log() + 0.5 * math.log(2 * math.pi))
        return self.weights.log() - log_norm - square / (2 * self.stds.square())

    def log_prob(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """Log-density in nats."""
        return self._log_joint(x).logsumexp(-1)

    def score(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Gradient of the log-density: components' scores weighted by responsibility."""
        pull = self._log_joint(x).softmax(-1) / self.stds.square()
        return (pull.unsqueeze(-1) * self.means).sum(-2) - pull.sum(-1, keepdim=True) * x

    def diffused(self, mu: Tensor | float, std: Tensor | float) -> "GaussianMixture":
        """The law of ``mu x + std z``; tensors ``mu, std`` of shape (n,) give n mixtures."""
        mu = torch.as_tensor(mu, dtype=self.means.dtype)
        std = torch.as_tensor(std, dtype=self.means.dtype)
        stds = (mu[..., None].square() * self.stds.square() + std[..., None].square()).sqrt()
        return GaussianMixture(self.weights, mu[..., None, None] * self.means, stds)

    def second_moment(self) -> float:
        """``E |x|^2``, summed over dimensions."""
        each = self.means.square().sum(-1) + self.dim * self.stds.square()
        return float((self.weights * each).sum())

    def nodes(self, n: int) -> tuple[Float[Tensor, "M D"], Float[Tensor, " M"]]:
        """Gauss-Hermite points and weights (summing to one), ``n`` per axis and component."""
        t, w = np.polynomial.hermite_e.hermegauss(n)
        axes = torch.as_tensor(t, dtype=self.means.dtype)
        grid = torch.cartesian_prod(*[axes] * self.dim).reshape(-1, self.dim)
        mass = torch.as_tensor(w / w.sum(), dtype=self.means.dtype)
        mass = torch.cartesian_prod(*[mass] * self.dim).reshape(-1, self.dim).prod(-1)
        keep = mass > 1e-20 * mass.max()
        grid, mass = grid[keep], mass[keep]
        points = self.means[:, None] + self.stds[:, None, None] * grid
        return points.reshape(-1, self.dim), (self.weights[:, None] * mass).reshape(-1)


# The paper's mixtures: five components in a box of side 4, drawn with the authors' random key in
# classic float32 mode. Weights and widths come from one draw, so heavier means wider.
_WEIGHTS = (0.316013, 0.002303, 0.236245, 0.209391, 0.236047)
_STDS = (0.879689, 0.502768, 0.783848, 0.751583, 0.783609)
_NOTEBOOK_STDS = (0.703751, 0.402214, 0.627078, 0.601266, 0.626887)
# fmt: off
_MEANS = {
    2: ((-1.930286, -1.817396), (1.126829, -1.331748), (-1.737390, 1.512451),
        (0.386193, 0.690203), (-0.818276, 0.264235)),
    3: ((-0.604059, -0.995015, -0.064024), (-0.707622, -0.827158, -1.184423),
        (0.374366, -0.230703, 0.850626), (-1.786102, 0.180549, 1.815405),
        (-1.964569, -0.971782, 1.042930)),
    6: ((0.236778, 1.265405, 1.540577, -0.928859, 0.256370, -1.429411),
        (1.911041, 1.702655, 0.819682, -0.424063, -0.996224, -0.188082),
        (1.141254, 0.266915, 0.152822, -0.781421, -0.730662, -1.608528),
        (1.733912, -1.153475, -1.381743, 1.225295, -0.657002, -1.292414),
        (-1.893846, 0.934276, -0.625487, 0.580562, 0.820107, -1.848412)),
    9: ((0.326830, 1.136385, -1.741588, 1.808794, 0.315080, 0.821709, 1.384365, -1.631477,
         -1.042812),
        (0.484865, 0.633805, -0.185629, 0.441815, -1.390976, 0.866416, -0.502973, -0.167060,
         0.563097),
        (1.037512, 1.024139, 0.075006, 1.019486, -1.422891, 1.680185, 1.916221, -1.298341,
         -0.490952),
        (1.472403, -0.183434, -0.680642, -1.586999, 0.769365, -1.472065, 1.678365, 1.923507,
         1.723995),
        (-1.447164, 1.152584, -1.325223, 0.203193, -1.352562, 1.720231, -1.369132, 1.840419,
         -0.612900)),
}

# name -> (weights, means, stds); D* are the paper's, G* and N* have closed or quadrature values,
# E* are the equilibria of VP and VPx
MIXTURES = {
    **{f"D{dim}": (_WEIGHTS, means, _STDS) for dim, means in _MEANS.items()},
    "D2-notebook": (_WEIGHTS, _MEANS[2], _NOTEBOOK_STDS),
    "G1": ((0.3, 0.7), ((-1.5,), (1.0,)), (0.5, 0.8)),
    "G2": ((0.2, 0.5, 0.3), ((-1.5, 0.5), (1.0, 1.0), (0.5, -1.5)), (0.5, 0.7, 0.6)),
    "N1": ((1.0,), ((0.0,),), (0.5,)),
    "N2": ((1.0,), ((1.0, 1.0),), (0.7,)),
    "N3": ((1.0,), ((1.0, 0.0, 0.0),), (1.0,)),
    "E3": ((1.0,), ((0.0, 0.0, 0.0),), (1.0,)),
    "E3-x": ((1.0,), ((0.0, 0.0, 0.0),), (0.1,)),
}
# fmt: on


def _dilated(law: tuple, d: float) -> tuple:
    """The law of ``(1 + d) x``: box and widths both grow with the authors' ``dist_scale``, d."""
    weights, means, stds = (np.asarray(v) for v in law)
    return weights, (1 + d) * means, (1 + d) * stds


MIXTURES |= {
    f"D{dim}-d{10 * d:02.0f}": _dilated(MIXTURES[f"D{dim}"], d)  # in tenths
    for dim in (3, 6, 9)
    for d in (0.5, 1.0)
}


class MixtureData(L.LightningDataModule):
    """Points of one mixture: training batches (B, D) float32, held-out points for evaluation.

    The points are the same for every ``seed``: it orders the batches alone, as in the paper, where
    every model is trained and scored on one data set.

    Args:
        mixture: a name of ``MIXTURES``.
        n_train: training points N (paper: 8192).
        n_eval: held-out points (paper: 10000).
        batch_size: points per update over all devices together.
        seed: orders the training batches.
    """

    def __init__(
        self,
        mixture: str = "D3",
        n_train: int = 8192,
        n_eval: int = 10000,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(n_train, n_eval, batch_size) < 1:
            raise DataError("n_train, n_eval and batch_size must be at least 1")
        self.mixture, self.density = mixture, GaussianMixture.named(mixture)
        self.dim = self.density.dim
        self.batch_size, self.seed = batch_size, seed
        self.x_train = self.density.sample(n_train, generator(0, "mixture", "train")).float()
        self.x_eval = self.density.sample(n_eval, generator(0, "mixture", "held-out")).float()

    @property
    def fingerprint(self) -> str:
        """sha256 of the training and held-out points."""
        digest = hashlib.sha256(self.x_train.numpy().tobytes())
        digest.update(self.x_eval.numpy().tobytes())
        return digest.hexdigest()

    @property
    def updates_per_epoch(self) -> int:
        return math.ceil(len(self.x_train) / self.batch_size)

    def example_batch(self, n: int | None = None) -> Float[Tensor, "n D"]:
        """A training batch of ``n`` rows (as many as an update takes) in shape and type only."""
        n = min(self.batch_size, len(self.x_train)) if n is None else n
        return torch.zeros(n, self.dim)

    def train_dataloader(self) -> DataLoader:
        """Batches without end, a function of (seed, update) alone, from the current update on."""
        batches = StepBatches.of(self.trainer, (self.x_train,), self.batch_size, self.seed)
        return DataLoader(batches, batch_size=None)

    def _held_out(self) -> DataLoader:
        return DataLoader(Chunks((self.x_eval,), self.batch_size), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return self._held_out()

    def test_dataloader(self) -> DataLoader:
        return self._held_out()

    def predict_dataloader(self) -> DataLoader:
        return self._held_out()
