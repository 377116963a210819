"""The Frechet distance: closed forms, other forms of it, few features, batches."""

import math

from datamodules import DataError

import numpy as np
import pytest
import scipy.linalg
import torch

from reproduce.evaluators import inception
from reproduce.evaluators.frechet import frechet_distance


def features(n: int, dim: int, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    """Correlated, of one sign like those of a network, of unequal spread."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(100 + seed).normal(size=(dim, dim)) / dim**0.5
    return np.maximum(rng.normal(size=(n, dim)) @ mixing + shift, -0.5)


def by_square_root(x: np.ndarray, y: np.ndarray) -> float:
    """The definition, by SciPy's square root of a matrix."""
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(a @ b).real
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root))


def whitened(n: int, dim: int, seed: int) -> np.ndarray:
    """Features of mean exactly 0 and covariance exactly 1."""
    x = np.random.default_rng(seed).normal(size=(n, dim))
    x = np.linalg.qr(x - x.mean(0))[0]
    return x * math.sqrt(n - 1)


@pytest.mark.parametrize(("n", "m", "dim"), [(300, 200, 16), (65, 1000, 64), (90, 90, 5)])
def test_equals_the_definition(n, m, dim):
    x, y = features(n, dim, 0), features(m, dim, 1, 0.3)
    assert frechet_distance(x, y) == pytest.approx(by_square_root(x, y), rel=1e-8)


def test_of_diagonal_normals():
    """``|m_1 - m_2|^2 + sum (s_1 - s_2)^2``."""
    n = 100
    s, t = np.array([1.0, 2.0, 0.5, 3.0, 0.0]), np.array([2.0, 2.0, 4.0, 0.1, 1.0])
    x, y = whitened(n, 5, 0) * s, whitened(n, 5, 1) * t + 0.5
    expected = 5 * 0.25 + ((s - t) ** 2).sum()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-7)


def test_is_symmetric_and_zero_for_equal_sets():
    n, dim = 300, 16
    x, y = features(n, dim, 0), features(n, dim, 1)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-9)
    scale = float(x.var(0).sum())
    assert 0 <= frechet_distance(x, x) < 1e-5 * scale
    assert 0 <= frechet_distance(x, x[::-1].copy()) < 1e-5 * scale
    assert frechet_distance(x, x + 2) == pytest.approx(4 * dim, rel=1e-6)


def test_a_feature_without_spread():
    x, y = features(300, 8, 0), features(300, 8, 1)
    with_it = [np.column_stack([z, np.full(300, c)]) for z, c in ((x, 0.0), (y, 2.0))]
    assert frechet_distance(*with_it) == pytest.approx(frechet_distance(x, y) + 4, rel=1e-6)


def test_single_precision_and_gradients_are_taken_as_they_are():
    x, y = features(80, 6, 0), features(80, 6, 1)
    single = [torch.tensor(z, dtype=torch.float32, requires_grad=True) for z in (x, y)]
    assert frechet_distance(*single) == pytest.approx(frechet_distance(x, y), rel=1e-5)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((3, 2)), np.zeros((3, 3)), "of 2 and of 3 dimensions"),
        (np.zeros((1, 2)), np.zeros((3, 2)), "at least two"),
        (np.zeros(3), np.zeros((3, 2)), r"\(n, D\) wanted"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), "not finite"),
    ],
)
def test_bad_features(x, y, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(x, y)


# ------------------------------------------------------------------------------ torch-fidelity
def bytes_of(n: int, seed: int, channels: int = 3) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    brighter = torch.rand(n, channels, 1, 1, generator=rng) + 0.1 * seed
    return (brighter * torch.randint(120, (n, channels, 8, 8), generator=rng)).to(torch.uint8)


class TestInception:
    def test_weights_that_are_not_there(self, monkeypatch, tmp_path):
        monkeypatch.delenv(inception.VARIABLE, raising=False)
        with pytest.raises(DataError, match="not downloaded: set ENTROFLOW_INCEPTION"):
            inception.weights()
        monkeypatch.setenv(inception.VARIABLE, str(tmp_path / "absent.pth"))
        with pytest.raises(DataError, match=r"absent\.pth: No such file"):
            inception.weights()

    def test_weights_that_are_others_are_never_loaded(self, monkeypatch, tmp_path):
        path = tmp_path / "weights.pth"
        path.write_bytes(b"not these")
        monkeypatch.setenv(inception.VARIABLE, str(path))
        with pytest.raises(DataError, match=r"sha256 is e5be27a6\.\.\., not 6726825d"):
            inception.fidelity(bytes_of(4, 0), bytes_of(4, 1), bytes_of(4, 2))

    @pytest.mark.slow
    @pytest.mark.parametrize("channels", [1, 3])
    def test_torch_fidelity_measures_what_we_do(self, monkeypatch, tmp_path, channels):
        """Its whole path on an extractor of 12 features, beside our own distance."""
        from torch_fidelity import FeatureExtractorBase, register_feature_extractor

        class Means(FeatureExtractorBase):
            def __init__(self, name, features_list, **kwargs):
                super().__init__(name, features_list)

            @staticmethod
            def get_provided_features_list():
                return ("means",)

            @staticmethod
            def get_default_feature_layer_for_metric(metric):
                return "means"

            def forward(self, x):
                assert x.shape[1] == 3
                return (torch.nn.functional.avg_pool2d(x.float() / 25, 4).flatten(1),)

        register_feature_extractor(f"means-{channels}", Means)
        monkeypatch.setattr(inception, "_EXTRACTOR", f"means-{channels}")
        monkeypatch.setattr(inception, "weights", lambda: tmp_path)
        sets = [bytes_of(n, seed, channels) for seed, n in enumerate((90, 70, 60))]
        got = inception.fidelity(*sets)
        made, train, test = (Means("means", ["means"])(x.expand(-1, 3, -1, -1))[0] for x in sets)
        assert got["FID_train"] == pytest.approx(frechet_distance(made, train), rel=1e-5)
        assert got["FID_test"] == pytest.approx(frechet_distance(made, test), rel=1e-5)
        assert got["FID_test"] > got["FID_train"] > 0
        assert 0 <= got["precision"] <= 1
        assert got["KID"] > 0
        assert set(got) == {"FID_train", "FID_test", "KID", "precision", "recall"}
