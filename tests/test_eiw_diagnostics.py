"""Entropy, Gaussianity and order of features, against closed forms and invariances."""

import itertools
import math

from lightning_modules.eiw_flow.alignment import (
    class_probe,
    crossings,
    factored_mass,
    kept_overlap,
    normalised_entropy,
    order_spearman,
    pixel_probe,
    spearman,
)
from lightning_modules.eiw_flow.entropy import (
    ESTIMATORS,
    GAUSS,
    Entropies,
    entropies,
    gain,
    knn_entropy,
    r2e2,
    spacing_entropy,
)
from lightning_modules.eiw_flow.gaussianity import gaussianity, ks_distance, ks_interval

import numpy as np
import pytest
import torch
from jacobians import images
from scipy import stats

FREE = ["spacing", "knn"]  # of any assumption about the density


def phi(x):
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def known(m, side=4, seed=0):
    """Gaussian, Laplace, uniform and mixture channels, and their entropies in nats."""
    rng = torch.Generator().manual_seed(seed)
    u = torch.rand(3, m, side, side, generator=rng, dtype=torch.float64)
    normal = torch.randn(2, m, side, side, generator=rng, dtype=torch.float64)
    mixture = torch.where(u[2] < 0.3, -1.0, 1.0) + 0.5 * normal[1]
    laplace = torch.distributions.Laplace(0.0, 0.5).icdf(u[1])
    x = torch.linspace(-6, 6, 10001, dtype=torch.float64)
    two = [w * torch.exp(-2 * (x - c).square()) for w, c in ((0.3, -1), (0.7, 1))]
    p = sum(two) * 2 / math.sqrt(2 * math.pi)
    exact = [
        0.5 * math.log(2 * math.pi * math.e * 4),
        1 + math.log(2 * 0.5),
        math.log(3),
        float(torch.trapezoid(torch.special.entr(p), x)),
    ]
    return torch.stack([2 * normal[0], laplace, 3 * u[0], mixture], 1), torch.tensor(exact)


class TestEntropy:
    @pytest.mark.parametrize("m", [1024, 10_000])
    @pytest.mark.parametrize("estimator", FREE)
    def test_channels_of_known_entropy(self, estimator, m):
        u, exact = known(m, 4 if m == 1024 else 2)
        found = entropies(u, estimator).entropy.mean((1, 2))
        torch.testing.assert_close(found, exact.double(), rtol=0, atol=0.05)

    def test_the_bias_that_is_documented(self):
        u, exact = known(1024, 10)
        found = entropies(u).entropy.mean((1, 2)) - exact
        torch.testing.assert_close(
            found[:3], torch.tensor([-0.01, 0.01, -0.03]).double(), rtol=0, atol=0.008
        )

    def test_gauss_is_the_entropy_of_a_gaussian_and_an_upper_bound(self):
        u, exact = known(1024)
        found = entropies(u, "gauss")
        torch.testing.assert_close(found.entropy, 0.5 * (2 * math.pi * math.e * u.var(0)).log())
        assert (found.entropy.mean((1, 2)) - exact)[1:].min() > 0.05
        assert found.negentropies.abs().max() < 1e-6

    def test_nearest_neighbours_by_search(self):
        x = images(2, 30)
        distance = (x[:, :, None] - x[:, None]).abs().sort(2).values[..., 3]
        psi = float(torch.digamma(torch.tensor(30.0)) - torch.digamma(torch.tensor(3.0)))
        wanted = psi + (2 * distance).log().mean(1)
        torch.testing.assert_close(knn_entropy(x), wanted, rtol=0, atol=1e-6)

    def test_spacings_by_hand(self):
        x = torch.tensor([[0.5, 0.1, 0.9, 0.2, 0.4]])  # m = 2
        wanted = sum(math.log(5 / 4 * span) for span in (0.3, 0.4, 0.8, 0.7, 0.5)) / 5
        assert float(spacing_entropy(x)) == pytest.approx(wanted, abs=1e-6)

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_shift_does_nothing_and_scale_adds_its_logarithm(self, estimator):
        u, _ = known(64)
        one, other = entropies(u, estimator), entropies(5 - 1e-9 * u, estimator)
        assert other.expected == pytest.approx(one.expected + math.log(1e-9), abs=1e-4)
        assert other.standardised == pytest.approx(one.standardised, abs=1e-4)
        assert other.negentropy == pytest.approx(one.negentropy, abs=1e-4)
        moved = entropies(3 * u + 7, estimator)
        torch.testing.assert_close(moved.entropy, one.entropy + math.log(3), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("estimator", FREE)
    def test_negentropy_is_the_distance_from_gaussian(self, estimator):
        u, exact = known(2048)
        found = entropies(u, estimator)
        each = found.negentropies.mean((1, 2))
        wanted = 0.5 * torch.log(2 * math.pi * math.e * u.var(0).mean((1, 2))) - exact
        torch.testing.assert_close(each, wanted, rtol=0, atol=0.03)
        assert each[0].abs() < 0.02 < 0.03 < each[1:].min()
        assert found.standardised == pytest.approx(GAUSS - found.negentropy)
        assert found.mean_variance == pytest.approx(float(u.var(0).mean()))

    def test_blocks_change_nothing(self):
        u = images(50, 3, 2, 2).to(memory_format=torch.channels_last)
        one, other = entropies(u), entropies(u, block=1)
        torch.testing.assert_close(one.entropy, other.entropy, rtol=0, atol=1e-12)
        torch.testing.assert_close(one.std, other.std, rtol=0, atol=1e-12)
        far = (u + 1000).float()
        wanted = entropies(far.double()).entropy
        torch.testing.assert_close(entropies(far).entropy, wanted, rtol=0, atol=1e-12)

    def test_values_that_repeat_have_the_entropy_of_the_jitter(self):
        u = torch.tensor([-1.0, 1.0]).repeat(4000)[:, None, None, None]
        assert entropies(u, "knn").expected == pytest.approx(math.log(2 * 1e-6), abs=0.05)

    def test_constant_elements_are_left_out(self):
        u, _ = known(64)
        alone = entropies(u)
        found = entropies(torch.cat([u, torch.full_like(u[:, :1], 0.1)], 1))
        assert (alone.constant, found.constant) == (0, 16)
        assert found.entropy[4].eq(-math.inf).all()
        assert (found.expected, found.standardised) == (alone.expected, alone.standardised)
        assert found.negentropy == alone.negentropy

    def test_what_cannot_be_measured(self):
        u = images(8, 2, 1, 1)
        for measure in (entropies, gaussianity, ks_interval):
            with pytest.raises(ValueError, match="7 images are too few"):
                measure(u[:7])
            with pytest.raises(ValueError, match="not finite"):
                measure(u / 0)
        with pytest.raises(ValueError, match="constant over the images"):
            entropies(u[:1].expand(8, 2, 1, 1))
        with pytest.raises(ValueError, match="choose one of spacing, knn, gauss"):
            entropies(u, "best")
        with pytest.raises(ValueError, match="no 3-th neighbours"):
            knn_entropy(images(1, 3))


class TestR2E2:
    def features(self, entropy, std=1.0):
        return Entropies(
            torch.tensor([[[entropy - 0.5, entropy + 0.5]]]), torch.full((1, 1, 2), std)
        )

    def test_by_hand(self):
        x, z = self.features(-2.0), self.features(1.0)
        assert r2e2(x, z) == (1.5, 3.0)
        assert r2e2(z, x) == (-3.0, -3.0)
        assert r2e2(self.features(0.0), z) == pytest.approx((math.nan, 1.0), nan_ok=True)

    def test_standardised_is_blind_to_scale(self):
        x, z = self.features(1.0), self.features(2.0 + math.log(5), std=5.0)
        assert r2e2(x, z, standardised=True) == pytest.approx((1.0, 1.0))
        assert r2e2(x, z) == pytest.approx((1.0 + math.log(5), 1.0 + math.log(5)))

    def test_gain_in_percent(self):
        assert gain(0.3, 0.2) == pytest.approx(50)
        assert gain(0.1, -0.2) == pytest.approx(150)
        assert math.isnan(gain(1.0, 0.0))


def grid(n, shift=0.0, scale=1.0):
    """The n quantiles that represent N(shift, scale^2) best: their own D is 1 / 2n."""
    p = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return shift + scale * torch.special.ndtri(p)


class TestGaussianity:
    @pytest.mark.parametrize("shift", [0.0, 0.5, -1.34, 6.0])
    def test_shifted_normal(self, shift):
        found = float(ks_distance(grid(5000, shift)))
        assert found == pytest.approx(2 * phi(abs(shift) / 2) - 1, abs=2e-4)
        assert float(ks_distance(grid(5000))) == pytest.approx(1e-4)

    def test_scaled_normal(self):
        t = math.sqrt(2 * math.log(2) * 4 / 3)  # where N(0, 4) and N(0, 1) have equal densities
        assert float(ks_distance(grid(5000, scale=2.0))) == pytest.approx(
            phi(t) - phi(t / 2), abs=2e-4
        )

    def test_as_scipy_s(self):
        x = images(6, 41).round(decimals=1)  # with ties
        wanted = [stats.kstest(row.numpy(), "norm").statistic for row in x]
        np.testing.assert_allclose(ks_distance(x).numpy(), wanted, rtol=1e-12)
        assert ks_distance(x.view(2, 3, 41)).shape == (2, 3)

    def test_pooled_and_over_channels(self):
        u = torch.stack([grid(400, c / 4).view(100, 2, 2) for c in range(5)], 1)
        found = gaussianity(u)
        each = [2 * phi(c / 8) - 1 for c in range(5)]
        np.testing.assert_allclose(found.channels.numpy(), each, atol=3e-3)
        assert found.median == pytest.approx(each[2], abs=3e-3)
        assert found.iqr == pytest.approx(each[3] - each[1], abs=3e-3)
        assert found.n == 2000
        assert found.pooled == float(ks_distance(u.flatten()))
        assert found.pooled < each[4]

    def test_standardised_is_blind_to_each_channel_s_shift_and_scale(self):
        u, _ = known(64)
        moved = (
            u * torch.tensor([3.0, 0.1, 1, 20])[:, None, None] + torch.arange(4.0)[:, None, None]
        )
        one, other = gaussianity(u, True), gaussianity(moved, True)
        torch.testing.assert_close(one.channels, other.channels)
        assert one.pooled == pytest.approx(other.pooled)
        assert abs(gaussianity(u).pooled - gaussianity(moved).pooled) > 0.1
        uniform = (torch.arange(4000.0) / 4000).view(1000, 1, 2, 2)
        x = math.sqrt(math.log(6 / math.pi))  # where the two densities meet, 1 / sqrt(12) = phi
        wanted = abs(phi(x) - (0.5 + x / math.sqrt(12)))
        assert gaussianity(uniform, True).pooled == pytest.approx(wanted, abs=1e-3)

    def test_a_constant_channel_is_only_centred(self):
        u = torch.full((73, 2, 1, 1), 0.1).double() + 1e-9
        assert gaussianity(u, True).channels.tolist() == [0.5, 0.5]
        assert gaussianity(u).pooled == pytest.approx(phi(0.1), abs=1e-6)
        assert ks_interval(u, True, 10) == pytest.approx((0.5, 0.5), abs=1 / 512)


class TestInterval:
    @pytest.mark.parametrize("standardised", [False, True])
    def test_as_by_drawing_images_one_set_after_another(self, standardised):
        u = known(300, 1)[0] + torch.arange(4.0)[:, None, None] / 3
        draws = torch.randint(300, (60, 300), generator=torch.Generator().manual_seed(5))
        each = [gaussianity(u[rows], standardised).pooled for rows in draws]
        wanted = np.quantile(each, [0.1, 0.9]) - 1 / 1024
        rng = torch.Generator().manual_seed(5)
        found = ks_interval(u, standardised, 60, level=0.8, rng=rng)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1 / 1024)

    def test_pixels_that_repeat_an_image_add_no_certainty(self):
        u = images(200, 1, 1, 1) + 0.5
        one, four = (
            ks_interval(v, rng=torch.Generator().manual_seed(1))
            for v in (u, u.expand(200, 1, 2, 2))
        )
        assert one == pytest.approx(four)
        assert one[0] < 2 * phi(0.25) - 1 < one[1]
        wide, narrow = one, ks_interval(images(3200, 1, 1, 1) + 0.5)
        assert (wide[1] - wide[0]) / (narrow[1] - narrow[0]) == pytest.approx(4, rel=0.4)


class TestMass:
    p = images(40, 6).softmax(-1)

    def test_the_sorted_order_has_the_least_of_all(self):
        best = factored_mass(self.p, self.p.mean(0).argsort(descending=True))
        halves = [
            [*kept, *(set(range(6)) - set(kept))] for kept in itertools.combinations(range(6), 3)
        ]
        each = [factored_mass(self.p, torch.tensor(perm)) for perm in halves]
        assert best == pytest.approx(min(each), abs=1e-12)
        assert sum(each) / len(each) == pytest.approx(0.5)
        assert best + factored_mass(self.p, self.p.mean(0).argsort()) == pytest.approx(1)

    def test_by_hand(self):
        p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
        assert factored_mass(p, torch.tensor([2, 0, 1])) == pytest.approx((0.8 + 0.2) / 2)
        assert factored_mass(p) == factored_mass(p, torch.arange(3)) == pytest.approx(0.7)

    def test_what_is_no_weight_and_no_order(self):
        with pytest.raises(ValueError, match="give their softmax"):
            factored_mass(self.p.log())
        with pytest.raises(ValueError, match="each channel once"):
            factored_mass(self.p, torch.tensor([0, 0, 1, 2, 3, 4]))


class TestProbes:
    def test_share_of_the_variance_that_features_carry(self):
        x, rest = images(400, 3, 2, 2), images(400, 12, seed=1)
        pixels = torch.cat([x.flatten(1) @ images(12, 12, seed=2) + 9, torch.ones(400, 1)], 1)
        assert pixel_probe(x, pixels) == pytest.approx(1, abs=1e-4)
        assert pixel_probe(rest, pixels) == pytest.approx(0, abs=0.05)
        half = pixels + rest @ images(12, 13, seed=3) * (12 / 13) ** 0.5
        assert pixel_probe(x, half) == pytest.approx(0.5, abs=0.1)
        assert pixel_probe(x, half) == pixel_probe(x, half, seed=0) != pixel_probe(x, half, seed=1)
        assert pixel_probe(x, (30 * pixels).long().view(400, 13, 1)) == pytest.approx(1, abs=1e-2)

    def test_it_is_measured_on_rows_held_out(self):
        assert pixel_probe(images(60, 200), images(60, 4, seed=1)) < 0.1
        x, labels = images(100, 150), torch.arange(100) % 2
        x[:, 0] += 2 * labels - 1
        assert class_probe(x, labels) < 0.9

    def test_classes(self):
        labels = torch.arange(300) % 3
        x = images(300, 2, 2, 2)
        assert class_probe(x, labels) == pytest.approx(1 / 3, abs=0.15)
        x[:, :, 0, 0] += 8 * torch.eye(3).double()[labels][:, :2]
        assert class_probe(x, labels) > 0.98

    def test_too_little(self):
        with pytest.raises(ValueError, match="19 rows are too few"):
            pixel_probe(images(19, 2), images(19, 2))
        with pytest.raises(ValueError, match="one class alone"):
            class_probe(images(40, 2), torch.zeros(40).long())


class TestOrder:
    def test_rank_correlation(self):
        a = images(9)
        assert spearman(a, a.exp()) == pytest.approx(1)
        assert spearman(a, -a.pow(3)) == pytest.approx(-1)
        assert math.isnan(spearman(a, torch.ones(9)))
        ties = torch.tensor([1.0, 1, 2, 3])  # ranks 1.5, 1.5, 3, 4
        assert spearman(ties, torch.arange(4.0)) == pytest.approx(4.5 / math.sqrt(4.5 * 5))

    def test_order_that_follows_entropy(self):
        entropy = images(11)
        perm = entropy.argsort()
        assert order_spearman(perm, entropy) == pytest.approx(1)
        assert order_spearman(perm.flip(0), entropy) == pytest.approx(-1)
        other, names = torch.randperm(11), torch.randperm(11)
        assert order_spearman(names.argsort()[other], entropy[names]) == pytest.approx(
            order_spearman(other, entropy)
        )

    def test_entropy_of_weights(self):
        assert normalised_entropy(torch.full((8,), 1 / 8)) == pytest.approx(1)
        assert normalised_entropy(torch.tensor([0.0, 1.0, 0.0])) == 0
        assert normalised_entropy(torch.tensor([0.5, 0.5, 0.0, 0.0])) == pytest.approx(0.5)
        for wrong in (torch.zeros(3), torch.ones(1)):
            with pytest.raises(ValueError, match="give their softmax"):
                normalised_entropy(wrong)

    def test_boundary(self):
        one = torch.tensor([3, 0, 2, 4, 1, 5])
        assert crossings(one, one[[2, 1, 0, 5, 4, 3]]) == 0
        assert kept_overlap(one, one[[2, 1, 0, 5, 4, 3]]) == 1
        assert (crossings(one, one.flip(0)), kept_overlap(one, one.flip(0))) == (6, 0)
        swapped = one[[0, 1, 3, 2, 4, 5]]
        assert (crossings(one, swapped), kept_overlap(one, swapped)) == (2, pytest.approx(2 / 3))
        odd = torch.arange(5)  # two are kept
        assert (crossings(odd, odd.roll(1)), kept_overlap(odd, odd.roll(1))) == (2, 0.5)
        with pytest.raises(ValueError, match="each channel once"):
            crossings(one, torch.tensor([1, 2, 3, 4, 5, 6]))
