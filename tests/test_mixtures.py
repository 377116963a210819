"""Gaussian mixtures: density, score, diffusion and quadrature; their points and their batches."""

import math
from itertools import islice

from datamodules import DataError, GaussianMixture, MixtureData
from datamodules.batches import StepBatches, generator
from datamodules.mixtures import MIXTURES

import pytest
import torch

SECOND_MOMENTS = {
    "D2": 5.094296,
    "D2-notebook": 4.623772,
    "D3": 5.368174,
    "D6": 11.617198,
    "D9": 20.920575,
}


def close(a, b, rtol=1e-10, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def points(dim: int, n: int = 50, spread: float = 3.0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(dim)
    return spread * torch.randn(n, dim, generator=rng, dtype=torch.float64)


# ------------------------------------------------------------------------------- density and score
@pytest.mark.parametrize("name", MIXTURES)
def test_score_is_the_gradient_of_log_prob(name):
    mixture = GaussianMixture.named(name)
    x = points(mixture.dim).requires_grad_()
    (gradient,) = torch.autograd.grad(mixture.log_prob(x).sum(), x)
    close(mixture.score(x.detach()), gradient)


def test_score_and_log_prob_stay_finite_far_away():
    mixture = GaussianMixture.named("D3")
    x = torch.full((1, 3), 1e3, dtype=torch.float64)
    assert mixture.log_prob(x).isfinite().all()
    # far out the widest component rules
    wide = mixture.stds.argmax()
    close(mixture.score(x), (mixture.means[wide] - x) / mixture.stds[wide] ** 2, rtol=1e-6)


@pytest.mark.parametrize("name", ["G1", "N1", "G2", "D2", "D2-notebook"])
def test_density_integrates_to_one(name):
    mixture = GaussianMixture.named(name)
    axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * mixture.dim).reshape(-1, mixture.dim)
    cell = float(axis[1] - axis[0]) ** mixture.dim
    assert float(mixture.log_prob(grid).exp().sum()) * cell == pytest.approx(1, abs=1e-9)


def test_log_prob_of_one_gaussian():
    x = points(3)
    want = torch.distributions.Normal(torch.tensor([1.0, 0.0, 0.0]).double(), 1.0).log_prob(x)
    close(GaussianMixture.named("N3").log_prob(x), want.sum(-1))


def test_log_densities_of_g1():
    # section 11, item 7
    x = torch.tensor([[-2.0], [-1.0], [0.0], [1.0], [2.0]], dtype=torch.float64)
    want = [-1.92764, -1.82934, -1.81722, -1.05247, -1.83372]
    assert GaussianMixture.named("G1").log_prob(x).tolist() == pytest.approx(want, abs=5.1e-6)


# --------------------------------------------------------------------------------------- diffusion
@pytest.mark.parametrize(("mu", "std"), [(0.99, 0.05), (0.6, 0.8), (0.1, 0.3)])
def test_diffused_is_the_convolution(mu, std):
    mixture = GaussianMixture.named("G1")
    x = torch.linspace(-9, 9, 20001, dtype=torch.float64)[:, None]
    y = torch.linspace(-4, 4, 41, dtype=torch.float64)
    kernel = torch.distributions.Normal(mu * x, std).log_prob(y)
    log_cell = math.log(float(x[1] - x[0]))
    want = (mixture.log_prob(x)[:, None] + kernel).logsumexp(0) + log_cell
    close(mixture.diffused(mu, std).log_prob(y[:, None]), want, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", ["D2", "D3"])
def test_moments_of_the_diffused_law(name):
    mixture, mu, std = GaussianMixture.named(name), 0.7, 0.4
    law = mixture.diffused(mu, std)
    x, mass = law.nodes(6)
    x0, mass0 = mixture.nodes(6)
    close(mass @ x, mu * (mass0 @ x0))
    want = mu**2 * mixture.second_moment() + mixture.dim * std**2
    assert law.second_moment() == pytest.approx(want, rel=1e-12)
    assert float(mass @ x.square().sum(-1)) == pytest.approx(want, rel=1e-12)


def test_many_diffused_mixtures_at_once():
    mixture = GaussianMixture.named("D3")
    mu = torch.linspace(0.05, 0.99, 6, dtype=torch.float64)
    std = (1 - mu**2).sqrt()
    x = points(3, 6 * 10).reshape(6, 10, 3)
    many = mixture.diffused(mu[:, None], std[:, None])  # one law per time, ten points each
    rows = mixture.diffused(mu, std)  # one law per row
    assert many.log_prob(x).shape == (6, 10)
    for i in range(6):
        one = mixture.diffused(float(mu[i]), float(std[i]))
        close(many.log_prob(x)[i], one.log_prob(x[i]))
        close(many.score(x)[i], one.score(x[i]))
        close(rows.score(x[:, 0])[i], one.score(x[i, 0]))


# -------------------------------------------------------------------------------------- quadrature
@pytest.mark.parametrize(
    ("name", "n", "entropy"), [("G1", 300, 1.59478026), ("G2", 100, 2.84264127)]
)
def test_nodes_integrate_the_entropy(name, n, entropy):
    mixture = GaussianMixture.named(name)
    x, mass = mixture.nodes(n)
    assert float(mass.sum()) == pytest.approx(1, abs=1e-12)
    assert -float(mass @ mixture.log_prob(x)) == pytest.approx(entropy, abs=1.5e-8)


@pytest.mark.parametrize("name", ["G1", "G2", "D3"])
def test_nodes_integrate_polynomials_exactly(name):
    mixture = GaussianMixture.named(name)
    x, mass = mixture.nodes(4)
    m, h = mixture.means[:, 0], mixture.stds
    assert float(mass @ x[:, 0]) == pytest.approx(float(mixture.weights @ m), rel=1e-12)
    fourth = float(mixture.weights @ (m**4 + 6 * m**2 * h**2 + 3 * h**4))
    assert float(mass @ x[:, 0] ** 4) == pytest.approx(fourth, rel=1e-12)


@pytest.mark.parametrize(("name", "moment"), SECOND_MOMENTS.items())
def test_second_moments_of_the_papers_mixtures(name, moment):
    # the page's own were computed before its weights, means and widths were cut to six digits
    assert GaussianMixture.named(name).second_moment() == pytest.approx(moment, rel=1e-6)


@pytest.mark.parametrize(
    ("dim", "checksum"), [(2, -3.620986), (3, -26.018921), (6, -113.384109), (9, 165.967657)]
)
def test_means_are_the_pages_literals(dim, checksum):
    # each times its place: no digit may change, even in the component that weighs 0.002
    place = torch.arange(1, 5 * dim + 1, dtype=torch.float64)
    means = GaussianMixture.named(f"D{dim}").means
    assert float(place @ means.flatten()) == pytest.approx(checksum, abs=1e-9)


@pytest.mark.parametrize(("name", "moment"), [("G1", 1.898), ("G2", 3.056), ("N2", 2.98)])
def test_second_moments_of_the_small_mixtures(name, moment):
    assert GaussianMixture.named(name).second_moment() == pytest.approx(moment, abs=1e-12)


# ---------------------------------------------------------------------------------------- sampling
@pytest.mark.parametrize("name", ["G1", "G2", "D2", "D6"])
def test_samples_have_the_mixtures_moments(name):
    mixture = GaussianMixture.named(name)
    x = mixture.sample(40000, torch.Generator().manual_seed(3))
    assert x.shape == (40000, mixture.dim)
    nodes, mass = mixture.nodes(3)
    for f in (lambda v: v, lambda v: v.square(), lambda v: v.square().sum(-1, keepdim=True) ** 2):
        drawn = f(x)
        error = drawn.std(0) / len(x) ** 0.5
        assert ((drawn.mean(0) - mass @ f(nodes)).abs() < 4.5 * error).all()


def test_a_sample_is_a_function_of_its_generator():
    mixture = GaussianMixture.named("D3")
    a, b, c = (mixture.sample(20, torch.Generator().manual_seed(s)) for s in (5, 5, 6))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_unknown_mixture_is_told_in_one_line():
    with pytest.raises(DataError, match=r"unknown mixture 'D4'.*D3.*G1") as caught:
        GaussianMixture.named("D4")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("d", [0.5, 1])
@pytest.mark.parametrize("name", ["D3", "D6", "D9"])
def test_a_dilated_mixture_is_the_law_of_dilated_points(name, d):
    plain, wide = GaussianMixture.named(name), GaussianMixture.named(f"{name}-d{10 * d:02.0f}")
    x = points(plain.dim)
    close(wide.log_prob((1 + d) * x), plain.log_prob(x) - plain.dim * math.log(1 + d))
    close(wide.sample(9, generator(0, "a")), (1 + d) * plain.sample(9, generator(0, "a")))


def test_weights_sum_to_one():
    for name in MIXTURES:
        assert float(GaussianMixture.named(name).weights.sum()) == pytest.approx(1, abs=1e-15)


# ------------------------------------------------------------------------------------- MixtureData
def small(**options) -> MixtureData:
    return MixtureData(
        **{"mixture": "D3", "n_train": 50, "n_eval": 21, "batch_size": 8, **options}
    )


def first(data: MixtureData, n: int) -> list[torch.Tensor]:
    return list(islice(data.train_dataloader(), n))


def test_points_do_not_depend_on_the_seed_but_their_order_does():
    a, b, again = small(seed=0), small(seed=1), small(seed=0)
    assert torch.equal(a.x_train, b.x_train)
    assert torch.equal(a.x_eval, b.x_eval)
    assert not torch.equal(torch.cat(first(a, 7)), torch.cat(first(b, 7)))
    assert torch.equal(torch.cat(first(a, 7)), torch.cat(first(again, 7)))


def test_points_do_not_depend_on_the_global_generator():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        a = small().fingerprint
        torch.manual_seed(2)
        assert small().fingerprint == a


def test_fingerprint_tells_data_apart():
    prints = [
        small(**o).fingerprint
        for o in ({}, {"n_train": 51}, {"n_eval": 22}, {"mixture": "D2"}, {"mixture": "D9"})
    ]
    assert len(set(prints)) == len(prints)
    assert small(seed=9, batch_size=3).fingerprint == prints[0]


def test_training_and_held_out_points_differ():
    data = small()
    assert data.x_train.dtype == data.x_eval.dtype == torch.float32
    assert data.x_train.shape == (50, 3)
    assert not torch.isin(data.x_eval, data.x_train).any()
    data = small(n_train=21)
    assert not torch.isin(data.x_eval, data.x_train).any()


def test_points_come_from_the_named_mixture():
    data = MixtureData("D6", n_train=20000, n_eval=20000)
    for x in (data.x_train, data.x_eval):
        moment = float(x.square().sum(-1).mean())
        assert moment == pytest.approx(SECOND_MOMENTS["D6"], rel=0.02)


def test_every_held_out_point_is_seen_once_in_order():
    data = small()
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        chunks = list(loader)
        assert [len(c) for c in chunks] == [8, 8, 5]
        assert torch.equal(torch.cat(chunks), data.x_eval)


def test_updates_per_epoch_counts_the_short_batch():
    assert small().updates_per_epoch == 7
    assert [len(b) for b in first(small(), 8)] == [8] * 6 + [2, 8]


@pytest.mark.parametrize("name", ["n_train", "n_eval", "batch_size"])
def test_nothing_to_draw_is_an_error(name):
    with pytest.raises(DataError, match="at least 1"):
        small(**{name: 0})


# ------------------------------------------------------------------------------------- StepBatches
def batches(n=22, size=4, seed=0, **options) -> StepBatches:
    return StepBatches((torch.arange(n),), size, seed, **options)


def test_each_epoch_is_its_own_permutation():
    drawn = list(islice(batches(), 18))
    epochs = [torch.cat(drawn[i : i + 6]) for i in (0, 6, 12)]
    for epoch in epochs:
        assert epoch.sort().values.tolist() == list(range(22))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])
    assert epochs[0].tolist() != list(range(22))


def test_the_last_short_batch_is_kept():
    assert [len(b) for b in islice(batches(), 12)] == [4, 4, 4, 4, 4, 2] * 2


@pytest.mark.parametrize("start", [0, 1, 5, 6, 7, 17, 40])
def test_a_batch_is_the_same_wherever_one_starts(start):
    whole = list(islice(batches(), start + 9))[start:]
    later = list(islice(batches(start=start), 9))
    assert all(torch.equal(a, b) for a, b in zip(whole, later, strict=True))


@pytest.mark.parametrize("start", [0, 7])
def test_two_devices_share_what_one_would_take(start):
    n = 13 if start == 0 else 6
    one = list(islice(batches(n=24, size=8, start=start), n))
    ranks = [
        list(islice(batches(n=24, size=8, start=start, rank=r, world=2), n)) for r in range(2)
    ]
    for whole, *parts in zip(one, *ranks, strict=True):
        assert [len(p) for p in parts] == [4, 4]
        assert torch.equal(torch.cat(parts), whole)


def test_devices_never_get_a_short_batch():
    drawn = list(islice(batches(n=22, size=4, rank=1, world=2), 10))
    assert {len(b) for b in drawn} == {2}


def test_a_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(ValueError, match=r"batch_size 9 .* 2 devices.*multiple of 2"):
        batches(n=24, size=9, world=2)


def test_rows_of_several_arrays_stay_together():
    arrays = (torch.arange(10), 100 + torch.arange(10))
    for a, b in islice(StepBatches(arrays, 3, 0), 8):
        assert torch.equal(a + 100, b)


def test_a_batch_larger_than_the_data_is_the_data():
    assert [len(b) for b in islice(batches(n=5, size=64), 3)] == [5, 5, 5]


def test_generators_of_different_names_are_independent():
    drawn = [
        torch.randint(2**40, (4,), generator=generator(*words)).tolist()
        for words in ((0, "order", 0), (0, "order", 1), (1, "order", 0), (0, "train"), (0,))
    ]
    assert len({tuple(d) for d in drawn}) == len(drawn)
    again = torch.randint(2**40, (4,), generator=generator(0, "order", 1)).tolist()
    assert again == drawn[1]
