"""Images as integers: bits, splits, augmentation, damage; a function of (seed, update) alone."""

from datamodules import DataError, DensityImages, load
from datamodules.augmentations import AUGMENTATIONS, DAMAGES, damaged
from datamodules.batches import generator
from datamodules.synthetic import SPREAD

import numpy as np
import pytest
import torch


def digits(**options):
    return DensityImages("digits", **{"bits": 4, "batch_size": 16} | options)


def first(loader, n=1):
    batches = iter(loader)
    return [next(batches) for _ in range(n)]


class TestIntegers:
    def test_digits_are_their_own_values_clipped(self):
        from sklearn.datasets import load_digits

        own = np.minimum(load_digits().data, 15).reshape(-1, 1, 8, 8)
        x = digits().x_train
        assert x.dtype == torch.float32
        assert torch.equal(x, torch.from_numpy(own[:1500]).float())
        assert torch.equal(digits().x_eval, torch.from_numpy(own[1500:]).float())

    def test_eight_bits_are_the_bytes(self):
        x = digits(bits=8).x_train
        assert torch.equal(x, torch.from_numpy(np.array(load("digits").images)).float())

    def test_one_bit(self):
        assert digits(bits=1).x_train.unique().tolist() == [0, 1]

    def test_the_first_of_each_class_and_padding(self):
        data = digits(n_per_class=3, n_eval_per_class=2, pad=4)
        assert data.x_train.shape == (30, 1, 16, 16)
        assert data.x_eval.shape == (20, 1, 16, 16)
        assert data.c_train.bincount().tolist() == [3] * 10
        assert data.x_train[..., :4, :].abs().max() == 0

    def test_box_averages(self):
        assert digits(size=4).x_train.shape == (1500, 1, 4, 4)

    def test_what_is_refused(self):
        for options, line in (
            ({"bits": 9}, "bits are 1 to 8"),
            ({"batch_size": 0}, "at least 1"),
            ({"augment": "mixup"}, "unknown augment 'mixup': choose one of none, flip, eta"),
            ({"damage": "rain"}, "unknown damage 'rain'"),
            ({"damage_share": 1.5}, "damage_share is 0 to 1"),
        ):
            with pytest.raises(DataError, match=line):
                digits(**options)

    def test_a_shape_without_the_data(self):
        for options, shape in (
            ({"source": "cifar10"}, (64, 3, 32, 32)),
            ({"source": "celeba", "size": 64}, (64, 3, 64, 64)),
            ({"source": "mnist", "pad": 2, "batch_size": 8}, (8, 1, 32, 32)),
        ):
            with torch.device("meta"):
                assert DensityImages(**options).example_batch().shape == shape

    def test_what_the_data_are_is_in_the_fingerprint(self):
        prints = {
            digits(**o).fingerprint
            for o in ({}, {"n_per_class": 9}, {"n_eval_per_class": 9}, {"damage_share": 0.1})
        }
        assert len(prints) == 4
        assert digits(seed=5).fingerprint in prints


class TestBatches:
    def test_a_function_of_seed_and_update(self):
        a, b = first(digits(augment="flip", seed=3).train_dataloader(), 3), None
        b = first(digits(augment="flip", seed=3).train_dataloader(), 3)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        c = first(digits(augment="flip", seed=4).train_dataloader())
        assert not torch.equal(a[0], c[0])
        assert a[0].shape == (16, 1, 8, 8)
        assert a[0].max() <= 15

    def test_without_augmentation_they_are_the_images(self):
        rows = {tuple(x.flatten().tolist()) for x in digits().x_train}
        batch = first(digits().train_dataloader())[0]
        assert {tuple(x.flatten().tolist()) for x in batch} <= rows

    def test_evaluation_is_whole_and_in_order(self):
        data = digits(augment="eta")
        assert torch.equal(torch.cat(list(data.val_dataloader())), data.x_eval)


class TestAugmentations:
    x = torch.randint(
        256, (400, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )

    def test_half_are_mirrored(self):
        y = AUGMENTATIONS["flip"](self.x, generator(1))
        mirrored = (y == self.x.flip(3)).flatten(1).all(1)
        same = (y == self.x).flatten(1).all(1)
        assert torch.equal(mirrored, ~same)
        assert 150 < mirrored.sum() < 250

    def test_shifts_of_at_most_a_pixel_with_edges_repeated(self):
        y = AUGMENTATIONS["eta"](self.x, generator(2))
        found = torch.zeros(3, 3)
        for a, b in zip(self.x, y, strict=True):
            matches = []
            for source in (a, a.flip(2)):
                wide = torch.nn.functional.pad(source[None].float(), [1] * 4, mode="replicate")[0]
                matches += [
                    (i, j)
                    for i in range(3)
                    for j in range(3)
                    if torch.equal(wide[:, i : i + 32, j : j + 32].to(torch.uint8), b)
                ]
            assert len(matches) == 1
            found[matches[0]] += 1
        # rounded from +-1.28 pixels: 0.305, 0.39, 0.305 along each side
        exact = torch.tensor([0.305, 0.39, 0.305])
        torch.testing.assert_close(found / 400, exact[:, None] * exact, rtol=0, atol=0.06)

    @pytest.mark.parametrize("kind", DAMAGES)
    def test_a_share_is_damaged_always_the_same(self, kind):
        y = damaged(self.x, kind, 0.3, "train")
        changed = (y != self.x).flatten(1).any(1)
        assert changed.sum() == 120
        assert torch.equal(y, damaged(self.x, kind, 0.3, "train"))
        assert torch.equal(damaged(self.x, kind, 0.0, "train"), self.x)
        more = (damaged(self.x, kind, 0.5, "train") != self.x).flatten(1).any(1)
        assert (more | ~changed).all()  # the same images, and others

    def test_how_much(self):
        whole = {k: damaged(self.x, k, 1.0, "train") for k in DAMAGES}
        middle = torch.full_like(self.x, 128)
        noise = damaged(middle, "gaussian", 1.0, "train").float() - 128
        assert float(noise.std()) == pytest.approx(25, abs=0.5)
        pixels = (whole["salt_and_pepper"] != self.x).any(1).float().mean()
        assert float(pixels) == pytest.approx(0.1, abs=0.01)
        share = (whole["clutter"] != self.x).any(1).float().mean()
        assert float(share) == pytest.approx(0.25, abs=0.01)


class TestSynthetic:
    def test_normal_noise(self):
        x = load("noise").images
        assert x.shape == (96_000, 4, 8, 8)
        assert abs(x.std() - SPREAD) < 0.1
        assert abs(x.mean() - 128) < 0.1

    def test_four_laws_of_equal_variance(self):
        x = (load("channels").images.astype(float) - 128) / SPREAD
        assert np.allclose(x.std((0, 2, 3)), 1, atol=0.02)
        kurtosis = (x**4).mean((0, 2, 3))
        assert np.all(np.diff(kurtosis[[2, 0, 1, 3]]) > 1)

    def test_splits_differ(self):
        assert not np.array_equal(load("noise").images[:10], load("noise", "test").images[:10])
