"""The small classifier: it learns, it is the same each time, and it leaves no trace."""

import math

from datamodules import DensityImages

import pytest
import torch

from reproduce.evaluators import classifier as module
from reproduce.evaluators.classifier import FEATURES, Seen, classifier


def squares(n, side=8, seed=0):
    """Images of noise with a bright quarter, whose place is the label: 3, 5 or 9."""
    rng = torch.Generator().manual_seed(seed)
    x = 0.3 * torch.rand(n, 1, side, side, generator=rng)
    place = torch.randint(3, (n,), generator=rng)
    half = side // 2
    for i, p in enumerate(place.tolist()):
        x[i, :, half * (p // 2) :, half * (p % 2) :][:, :half, :half] += 0.6
    return x, torch.tensor([3, 5, 9])[place]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "_TRAINED", {})
    monkeypatch.setattr(module, "_UPDATES", 30)


def trained(key="squares", side=8):
    return classifier(*squares(300, side), *squares(90, side, seed=1), key)


@pytest.mark.parametrize("side", [8, 16])
def test_it_learns_labels_that_are_no_indices(side):
    net = trained(side=side)
    assert net.accuracy > 0.95
    x, labels = squares(60, side, seed=2)
    seen = net(x)
    assert float((seen.classes == net.index(labels)).float().mean()) > 0.9
    assert seen.features.shape == (60, FEATURES)
    torch.testing.assert_close(seen.probabilities.sum(1), torch.ones(60))


def test_it_is_the_same_each_time_and_leaves_the_generator_alone(monkeypatch):
    torch.manual_seed(5)
    one = trained()
    after = torch.rand(3)
    monkeypatch.setattr(module, "_TRAINED", {})
    torch.manual_seed(9)
    with torch.no_grad():  # as evaluators call it
        other = trained()
    for a, b in zip(one.net.state_dict().values(), other.net.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), after)


def test_it_is_trained_once_for_a_key():
    assert trained("a") is trained("a")
    assert trained("a") is not trained("b")


def test_it_is_frozen_and_sees_each_image_alone():
    net, (x, _) = trained(), squares(6, seed=3)
    assert not any(p.requires_grad for p in net.net.parameters())
    before = [b.clone() for b in net.net.buffers()]
    seen, one = net(x.double().requires_grad_()), net(x[2:3])
    torch.testing.assert_close(seen.features[2:3], one.features)
    assert not seen.features.requires_grad
    for a, b in zip(before, net.net.buffers(), strict=True):
        assert torch.equal(a, b)


def test_chunks_change_nothing(monkeypatch):
    net, (x, _) = trained(), squares(7, seed=4)
    whole = net(x)
    monkeypatch.setattr(module, "_CHUNK", 3)
    torch.testing.assert_close(net(x).features, whole.features)


def test_how_sure_and_how_varied():
    p = torch.tensor([[0.95, 0.05, 0.0], [0.2, 0.7, 0.1], [0.0, 0.09, 0.91], [0.92, 0.08, 0.0]])
    seen = Seen(torch.zeros(4, 1), p)
    assert seen.sure() == 0.75
    assert seen.sure(0.99) == 0
    assert seen.class_entropy() == pytest.approx(1.5 * math.log(2))
    assert Seen(torch.zeros(4, 1), p[:1]).class_entropy() == 0


def test_more_images_take_more_updates(monkeypatch):
    monkeypatch.setattr(module, "_UPDATES", 300)
    sizes = (90, 1500, 2000, 2020, 10_000, 50_000, 10**6)
    assert [module._updates(n) for n in sizes] == [300, 300, 300, 301, 700, 2500, 2500]


def test_it_makes_as_many_and_its_rate_falls_to_zero(monkeypatch):
    monkeypatch.setattr(module, "_FEW", 200)
    monkeypatch.setattr(module, "_IMAGES", 5)
    rates, step = [], torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam, "step",
        lambda self, *a: rates.append(self.param_groups[0]["lr"]) or step(self, *a),
    )  # fmt: skip
    trained()  # 300 images: 30 updates, and 20 more
    assert rates == pytest.approx([5e-3 * (1 - k / 50) for k in range(50)])


@pytest.mark.slow
def test_it_knows_the_digits(monkeypatch):
    monkeypatch.setattr(module, "_UPDATES", 300)
    data = DensityImages("digits", bits=4)
    x, held_out = data.x_train / 15, data.x_eval / 15
    assert classifier(x, data.c_train, held_out, data.c_eval, "digits").accuracy > 0.93
