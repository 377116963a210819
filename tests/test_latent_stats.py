"""The four statistics of latents against white noise, fields of known correlation and waves."""

import math

from lightning_modules.simflow.latent_stats import (
    autocorrelation,
    high_frequency_ratio,
    latent_stats,
    power_spectrum,
    spectral_entropy,
    standardised,
    total_variation,
)

import numpy as np
import pytest
import torch

SCALE_FREE = {
    "hf_ratio", "hf_ratio_centred", "spectral_entropy", "spectral_entropy_centred",
    "autocorrelation", "total_variation_standardised",
}  # fmt: skip


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def field(n, c, side, along_columns, along_rows, seed=0):
    """A stationary Gaussian field of variance 1, its correlation a product of powers."""
    x = noise(n, c, side, side, seed=seed)
    for axis, rho in ((2, along_columns), (3, along_rows)):
        tokens = list(x.unbind(axis))
        for i in range(1, side):
            tokens[i] = rho * tokens[i - 1] + math.sqrt(1 - rho**2) * tokens[i]
        x = torch.stack(tokens, axis)
    return x


def wave(rows, columns, side=16):
    """One image and one channel of so many cycles down and across, at the phase of one half."""
    i = torch.arange(side, dtype=torch.float64)
    return torch.cos(2 * math.pi * (rows * i[:, None] + columns * i) / side + 0.5)[None, None]


# -------------------------------------------------------------------------------- white latents
def test_white_latents_have_the_values_that_the_definitions_were_read_from():
    found = latent_stats(noise(100, 64, 16, 16), sigma=0.5)
    assert found["hf_ratio"] == pytest.approx(61 / 256, abs=0.001)
    assert found["spectral_entropy"] == pytest.approx(0.998, abs=0.001)
    assert found["autocorrelation"] == pytest.approx(0, abs=0.003)
    assert found["total_variation"] == pytest.approx(2 / math.sqrt(math.pi), abs=0.003)
    assert found["std"] == pytest.approx(1, abs=0.003)
    assert found["mean_abs"] == pytest.approx(math.sqrt(2 / math.pi), abs=0.002)
    assert found["snr"] == pytest.approx(4, abs=0.02)


def test_the_entropy_of_a_single_channels_periodogram():
    x = noise(2000, 1, 16, 16)
    assert float(spectral_entropy(power_spectrum(x)).mean()) == pytest.approx(0.924, abs=0.001)


@pytest.mark.parametrize(("side", "bins"), [(16, 61), (4, 5), (8, 17)])
def test_the_bins_beyond_half_the_side(side, bins):
    flat = torch.ones(1, side, side)
    assert float(high_frequency_ratio(flat)) == bins / side**2
    assert float(spectral_entropy(flat)) == pytest.approx(1)
    k = np.minimum(np.arange(side), side - np.arange(side))
    assert bins == (k[:, None] ** 2 + k**2 > (side / 2) ** 2).sum()


def test_other_thresholds():
    flat = torch.ones(1, 16, 16)
    for threshold, share in ((7.0, 0.42), (4.0, 0.81), (-1.0, 1), (12.0, 0)):
        assert float(high_frequency_ratio(flat, threshold)) == pytest.approx(share, abs=0.005)


# -------------------------------------------------------------------------------- correlation
@pytest.mark.parametrize(("rho", "other"), [(0.54, 0.54), (0.9, 0.3), (-0.5, 0.1)])
def test_a_field_of_known_correlation(rho, other):
    x = 0.61 * field(400, 8, 16, rho, other)
    assert autocorrelation(x) == pytest.approx((rho + other) / 2, abs=0.01)
    each = [1.128 * 0.61 * math.sqrt(1 - r) for r in (rho, other)]
    assert total_variation(x) == pytest.approx(sum(each) / 2, rel=0.01)
    assert total_variation(standardised(x)) == pytest.approx(sum(each) / 2 / 0.61, rel=0.01)


def test_correlation_is_pearsons_of_channels_without_their_means():
    x = field(50, 3, 6, 0.5, 0.2, seed=3).double()
    y = x - x.mean((0, 2, 3), keepdim=True)
    pairs = ((y[..., 1:], y[..., :-1]), (y[:, :, 1:], y[:, :, :-1]))
    want = np.mean([np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in pairs])
    assert autocorrelation(x) == pytest.approx(want, abs=2e-3)  # whose pairs have other means
    offset = torch.tensor([0.0, 40.0, -7.0])[:, None, None]
    assert autocorrelation(x + offset) == pytest.approx(autocorrelation(x), abs=1e-9)


def test_a_channel_counts_by_its_power():
    x = field(50, 2, 8, 0.8, 0.8).double() * torch.tensor([1.0, 1e-9])[:, None, None]
    alone, both = latent_stats(x[:, :1]), latent_stats(x)
    for key in SCALE_FREE - {"total_variation_standardised"}:
        assert both[key] == pytest.approx(alone[key], rel=1e-6)
    assert both["std"] == pytest.approx(alone["std"] / math.sqrt(2), rel=1e-6)


# -------------------------------------------------------------------------------- waves
@pytest.mark.parametrize(
    ("rows", "columns", "high"), [(3, 0, 0), (0, 7, 0), (5, 6, 0), (6, 6, 1), (7, 4, 1)]
)
def test_a_wave_stands_at_its_frequency(rows, columns, high):
    power = power_spectrum(wave(rows, columns))
    assert float(power[0, rows, columns]) == pytest.approx(float(power.sum()) / 2)
    assert float(high_frequency_ratio(power)) == pytest.approx(high, abs=1e-12)
    # two bins of equal power
    assert float(spectral_entropy(power)) == pytest.approx(math.log(2) / math.log(256))


def test_neighbours_along_a_wave():
    x = wave(0, 4)  # a quarter of a cycle from token to token, along rows alone
    i = np.cos(2 * math.pi * 4 * np.arange(16) / 16 + 0.5)
    assert total_variation(x) == pytest.approx(np.abs(np.diff(i)).mean() / 2)
    assert total_variation(x) == pytest.approx(total_variation(x.mT))
    across = (i[1:] - i[1:].mean()) @ (i[:-1] - i[:-1].mean()) / 15
    across /= i[1:].std() * i[:-1].std()
    assert autocorrelation(x) == pytest.approx((across + 1) / 2)


# -------------------------------------------------------------------------------- scale
def test_what_depends_on_scale():
    x = field(20, 4, 8, 0.5, 0.5).double()
    one, other = latent_stats(x, sigma=0.5), latent_stats(3 * x, sigma=0.5)
    for key in SCALE_FREE:
        assert other[key] == pytest.approx(one[key], rel=1e-9)
    for key in ("total_variation", "std", "mean_abs"):
        assert other[key] == pytest.approx(3 * one[key], rel=1e-9)
    assert other["snr"] == pytest.approx(9 * one["snr"], rel=1e-9)
    variance = float(x.var((0, 2, 3), correction=0).mean())
    assert one["snr"] == pytest.approx(variance / 0.25, rel=1e-9)


def test_a_mean_carries_no_signal():
    x = noise(20, 3, 4, 4).double()
    offset = torch.tensor([1.0, -20.0, 5.0])[:, None, None]
    moved, still = latent_stats(x + offset, sigma=1.0), latent_stats(x, sigma=1.0)
    for key in ("std", "snr", "total_variation", "total_variation_standardised"):
        assert moved[key] == pytest.approx(still[key], rel=1e-9)
    for key in ("hf_ratio", "spectral_entropy"):  # an offset passes for smoothness
        assert moved[f"{key}_centred"] == pytest.approx(still[f"{key}_centred"], rel=1e-9)
        assert moved[key] < 0.3 * still[key] < 0.35 * still[f"{key}_centred"]
    y = standardised(x + offset)
    assert y.mean((0, 2, 3)).abs().max() < 1e-12
    assert torch.allclose(y.std((0, 2, 3), correction=0), torch.ones(3).double())


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7])
def test_constants_have_no_variation(value):
    x = torch.full((7, 3, 4, 4), value, dtype=torch.float64)  # the mean of 0.1 is rounded
    found = latent_stats(x, sigma=0.5)
    assert found.pop("mean_abs") == pytest.approx(abs(value))
    assert found == dict.fromkeys(found, pytest.approx(0, abs=1e-12))
    assert not standardised(x).any()


def test_blocks_of_images():
    x = noise(7, 3, 4, 4)
    whole = power_spectrum(x)
    assert torch.equal(power_spectrum(x, block=2 * 48), whole)
    assert torch.equal(power_spectrum(x, block=1), whole)
    assert whole.shape == (7, 4, 4)
    # Parseval's theorem
    assert torch.allclose(whole.sum((1, 2)) / 16, x.double().square().mean(1).sum((1, 2)))


# -------------------------------------------------------------------------------- errors
def test_what_is_refused():
    x = noise(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"a square grid of tokens, not \(4, 3\)"):
        latent_stats(x[..., :3])
    with pytest.raises(ValueError, match=r"not \(1, 1\)"):
        latent_stats(x[..., :1, :1])
    with pytest.raises(ValueError, match="must be positive, not 0"):
        latent_stats(x, sigma=0.0)
    with pytest.raises(ValueError, match="diverged"):
        latent_stats(x / 0)
