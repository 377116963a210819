"""Sampling: four ways to one inverse, their calls, guidance, and the metrics that choose a way."""

import itertools

from lightning_modules.simflow.convergence import convergence_ranking, guessing_metric
from lightning_modules.simflow.guidance import Guidance, linear, score
from lightning_modules.simflow.sampling import Sampler, _solve, denoise, inverse, sample

import pytest
import torch
from jacobians import images
from test_token_flow import FAMILIES, given, small

WAYS = {
    "cached": Sampler(),
    "jacobi": Sampler("jacobi", tolerance=0.0),
    "jacobi from zero": Sampler("jacobi", tolerance=0.0, guess="zero"),
    "two windows": Sampler("gs_jacobi", windows=2, tolerance=0.0),
    "four windows": Sampler("gs_jacobi", windows=4, tolerance=0.0),
    "windows in one block": Sampler("gs_jacobi", windows=2, tolerance=0.0, blocks=(2,)),
}
GUIDED = {
    "not": None,
    "score": Guidance(1.5),
    "score, all": Guidance(1.5, blocks="all"),
    "linear": Guidance(0.5, "linear", "all"),
    "linear, annealed": Guidance(0.5, "linear", "all", annealed=True),
    "sharper": Guidance(0.5, "linear", "all", temperature=0.5),
}
NAIVE = Sampler("naive")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_naive_inverse_is_one(family):
    flow, x, y = small(family), images(2, 6, 2), given(family)
    z = flow(x, y).z
    torch.testing.assert_close(inverse(flow, z, y, NAIVE).x, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(flow(inverse(flow, x, y, NAIVE).x, y).z, x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_all_ways_lead_to_it(family, way):
    flow, z, y = small(family), images(2, 6, 2), given(family)
    expected = inverse(flow, z, y, NAIVE).x
    torch.testing.assert_close(inverse(flow, z, y, WAYS[way]).x, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("guided", GUIDED)
def test_with_guidance_too(way, guided):
    for family in ("tarflow", "prompts"):
        flow, z, y = small(family), images(2, 6, 2), given(family)
        expected = inverse(flow, z, y, NAIVE, GUIDED[guided]).x
        found = inverse(flow, z, y, WAYS[way], GUIDED[guided]).x
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("way", [NAIVE, *WAYS.values()])
def test_single_precision_and_an_odd_number_of_blocks(way):
    flow, x = small().float(), images(4, 6, 2).float()
    assert len(flow.blocks) % 2
    y = torch.tensor([0, 1, 2, -1])
    torch.testing.assert_close(inverse(flow, flow(x, y).z, y, way).x, x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("way", [NAIVE, *WAYS.values()])
@pytest.mark.parametrize("family", ["tarflow", "starflow"])
def test_one_token(family, way):
    flow, x, y = small(family, grid=(1, 1)), images(2, 1, 2), given(family)
    torch.testing.assert_close(inverse(flow, flow(x, y).z, y, way).x, x, rtol=0, atol=1e-9)


# ------------------------------------------------------------------------------------- calls
class TestCalls:
    def drawn(self, family, how, **kwargs):
        return inverse(small(family), images(2, 6, 2), given(family), how, **kwargs)

    def test_token_by_token(self):
        """The first token passes unchanged without a start token, and takes no call."""
        for how in (NAIVE, Sampler()):
            assert self.drawn("tarflow", how).calls == [5, 5, 5]
            assert self.drawn("starflow", how).calls == [6, 6, 6]
        assert self.drawn("starflow", NAIVE).evaluated == [1 + 2 + 3 + 4 + 5 + 6] * 3
        assert self.drawn("starflow", Sampler()).evaluated == [6, 6, 6]

    def test_both_branches_of_a_guided_block_are_one_call(self):
        assert self.drawn("tarflow", Sampler(), guidance=Guidance(1.0)).calls == [5, 5, 5]

    def test_corrections_end_when_nothing_moves(self):
        flow, z = small("tarflow"), images(2, 6, 2)
        with torch.no_grad():
            for block in flow.blocks:
                block.proj_out.weight *= 0.2
        exact = inverse(flow, z, None, Sampler("jacobi", tolerance=0.0))
        early = inverse(flow, z, None, Sampler("jacobi", tolerance=1e-2))
        assert exact.calls == [6, 6, 6]
        assert all(1 < a < b for a, b in zip(early.calls, exact.calls, strict=True))
        torch.testing.assert_close(early.x, exact.x, rtol=0, atol=0.02)
        assert not torch.equal(early.x, exact.x)
        assert self.drawn("tarflow", Sampler("jacobi", limit=2, tolerance=0.0)).calls == [2, 2, 2]

    def test_windows_take_calls_of_their_own(self):
        how = Sampler("gs_jacobi", windows=2, tolerance=0.0)
        assert self.drawn("starflow", how).calls == [6, 6, 6]
        assert self.drawn("starflow", how).evaluated == [18, 18, 18]
        how = Sampler("gs_jacobi", windows=2, tolerance=0.0, blocks=(1,))
        assert self.drawn("starflow", how).evaluated == [6, 18, 6]

    def test_the_network_is_called_as_often_as_is_said(self):
        flow = small("starflow")
        counts = [0] * 3
        for k, block in enumerate(flow.blocks):

            def count(*_, k=k):
                counts[k] += 1

            block.proj_in.register_forward_pre_hook(count)
        how = Sampler("gs_jacobi", windows=2, tolerance=1e-3)
        assert inverse(flow, images(2, 6, 2), given("starflow"), how).calls == counts


def test_guesses_that_overflow_come_right():
    """Scales e^(1000 (x_{t-1} - 0.02)): e^-20 in truth, beyond all numbers at the guess."""
    z = torch.tensor([0.01, 5.0, 5.0, 0.0, 5.0]).reshape(1, 5, 1)

    def reader(x, begin, end):
        assert x.isfinite().all()
        log_scale = torch.nn.functional.pad(1000 * (x[:, : end - 1] - 0.02), (0, 0, 1, 0))
        return log_scale, torch.zeros_like(log_scale)

    expected = _solve(reader_of_one(reader), z, range(6), Sampler())
    assert expected[0, 1:].abs().max() < 1e-3
    found = _solve(reader, z, [0, 5], Sampler("jacobi", tolerance=0.0))
    assert torch.equal(found, expected)


def reader_of_one(reader):
    return lambda x, begin, end: [part[:, begin:end] for part in reader(x, 0, end)]


def test_caches_are_allocated_once(monkeypatch):
    """Nothing that grows, and blocks after each other use the same memory where it fits."""
    from lightning_modules.simflow.transformer import Cache

    made = []
    empty = Cache.empty.__func__
    monkeypatch.setattr(
        Cache, "empty", classmethod(lambda cls, *args: made.append(args[:4]) or empty(cls, *args))
    )
    inverse(small("starflow"), images(2, 6, 2), given("starflow"))
    assert made == [(2, 2, 7, 8), (2, 2, 6, 8), (2, 2, 6, 8)]  # the deep block has a prompt


# ---------------------------------------------------------------------------------- guidance
class TestGuidance:
    def pair(self):
        log_c, m_c, log_u, m_u = images(4, 50, 6, 2)
        return log_c, m_c, log_u, m_u

    @pytest.mark.parametrize("rule", [linear, score])
    def test_nothing_changes_without_weight_or_difference(self, rule):
        log_c, m_c, log_u, m_u = self.pair()
        for w, (other_log, other_m) in itertools.product(
            (torch.zeros(6, 1), torch.full((6, 1), 3.0)), ((log_u, m_u), (log_c, m_c))
        ):
            if w.any() and other_log is log_u:
                continue
            found = rule(log_c, m_c, other_log, other_m, w.double())
            torch.testing.assert_close(found, (log_c, m_c), rtol=0, atol=1e-12)

    def test_linear_by_value(self):
        one = torch.ones(1, 1, 1)
        assert linear(one, 2 * one, 0.5 * one, one, torch.tensor(2.0)) == (2 * one, 4 * one)

    def test_score_is_the_gaussian_of_the_product(self):
        """p_c^(1+w) / p_u^w on a grid, where the unconditional scale is the greater one."""
        sigma_c, m_c, sigma_u, m_u, w = 0.7, 0.4, 1.3, -0.5, 1.5
        t = torch.linspace(-12, 12, 200_001).double()
        normal = torch.distributions.Normal
        log_p = (1 + w) * normal(m_c, sigma_c).log_prob(t) - w * normal(m_u, sigma_u).log_prob(t)
        p = (log_p - log_p.max()).exp()
        mean = (p * t).sum() / p.sum()
        std = ((p * (t - mean) ** 2).sum() / p.sum()).sqrt()
        values = (torch.tensor([[[v]]]).double() for v in (sigma_c, m_c, sigma_u, m_u))
        sc, mc, su, mu = values
        log_scale, m = score(sc.log(), mc, su.log(), mu, torch.tensor(w).double())
        torch.testing.assert_close(log_scale.exp().squeeze(), std, rtol=1e-6, atol=0)
        torch.testing.assert_close(m.squeeze(), mean, rtol=1e-6, atol=0)

    def test_score_never_widens(self):
        log_c, m_c, log_u, m_u = self.pair()
        for w in (0.5, 2.0, 10.0):
            log_scale, m = score(log_c, m_c, log_u, m_u, torch.tensor(w).double())
            assert (log_scale <= log_c + 1e-12).all()
            assert log_scale.isfinite().all()
            assert m.isfinite().all()

    def test_weight_zero_is_the_conditional_model_bit_for_bit(self):
        flow, z, y = small(), images(2, 6, 2), given("simflow")
        for rule in ("linear", "score"):
            plain, guided = (
                inverse(flow, z, y, guidance=g).x for g in (None, Guidance(0.0, rule, "all"))
            )
            assert torch.equal(plain, guided)

    def test_only_the_deep_block_unless_all(self):
        flow, z, y = small(), images(2, 6, 2), given("simflow")
        plain, deep, every = (
            inverse(flow, z, y, guidance=g).x
            for g in (None, Guidance(1.0), Guidance(1.0, blocks="all"))
        )
        assert not torch.equal(plain, deep)
        assert not torch.equal(deep, every)
        last = flow.blocks[-1]
        # where the deep block knows no condition, its guidance changes nothing
        with torch.no_grad():
            last.table[:] = last.table[-1]
        plain, deep, every = (
            inverse(flow, z, y, guidance=g).x
            for g in (None, Guidance(1.0), Guidance(1.0, blocks="all"))
        )
        torch.testing.assert_close(plain, deep, rtol=0, atol=1e-12)
        assert (every - deep).abs().max() > 1e-3

    def test_annealed_weights_rise_along_the_sequence(self):
        w = Guidance(3.0, annealed=True).weights(4)
        assert w.flatten().tolist() == [0.0, 1.0, 2.0, 3.0]
        assert Guidance(3.0).weights(3).flatten().tolist() == [3.0] * 3
        assert Guidance(3.0, annealed=True).weights(1).tolist() == [[3.0]]

    def test_a_temperature_guides_without_labels(self):
        flow, z = small("none"), images(2, 6, 2)
        same = inverse(flow, z, guidance=Guidance(1.0, "linear", "all")).x
        torch.testing.assert_close(same, inverse(flow, z).x, rtol=0, atol=1e-12)
        sharper = inverse(flow, z, guidance=Guidance(1.0, "linear", "all", temperature=0.5)).x
        assert (sharper - same).abs().max() > 1e-3

    @pytest.mark.parametrize(
        ("args", "says"),
        [
            ({"rule": "cubic"}, "unknown rule 'cubic': choose one of linear, score"),
            ({"blocks": "first"}, "unknown blocks 'first'"),
            ({"weight": -1.0}, "weight is 0 or more"),
            ({"temperature": 0.0}, "temperature above 0"),
        ],
    )
    def test_wrong_requests(self, args, says):
        with pytest.raises(ValueError, match=says):
            Guidance(**{"weight": 1.0, **args})


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"kind": "newton"}, "unknown sampler 'newton': choose one of naive, cached"),
        ({"guess": "x"}, "unknown guess 'x'"),
        ({"windows": 0}, "at least one window"),
    ],
)
def test_wrong_samplers(args, says):
    with pytest.raises(ValueError, match=says):
        Sampler(**args)


# ----------------------------------------------------------------------------- around samples
def test_samples_are_the_inverse_of_noise_at_its_temperature():
    flow, y = small("tarflow"), torch.tensor([0, 1])
    flow.var.fill_(4.0)
    found = sample(flow, lambda shape: images(*shape), 2, y, temperature=0.5).x
    assert torch.equal(found, inverse(flow, images(2, 6, 2), y).x)


def test_denoising_a_gaussian_is_shrinkage():
    """Of N(0, var), the posterior mean of what was there before noise of std 0.6."""
    flow, x = small("none", layers=(1,)), images(3, 6, 2)
    with torch.no_grad():
        flow.blocks[0].proj_out.weight.zero_()
        flow.blocks[0].proj_out.bias.zero_()
    flow.var.fill_(2.0)
    torch.testing.assert_close(denoise(flow, x, 0.6), x * (2.0 - 0.36) / 2.0)


class TestMetrics:
    def test_a_guess_is_measured_by_one_correction(self):
        flow, x, y = small("tarflow"), images(5, 6, 2), torch.tensor([0, 1, 2, 0, 1])
        found = guessing_metric(flow, x, y)
        k, block = 1, flow.blocks[1]
        inside = flow.blocks[0](x, y)[0]
        outside = block(inside, y)[0]
        for guess in ("z", "zero"):
            start = block.ordered(outside).clone()
            if guess == "zero":
                start[:, 1:] = 0
            # one correction: the forward pass at the guess, turned round
            log_scale, m = block.window(start[:, :-1], block.condition(y, 5))
            error = block.ordered(outside) * log_scale.exp() + m - block.ordered(inside)
            torch.testing.assert_close(found[guess][k], error.mean(0).square().sum().sqrt())

    def test_an_identity_converges_at_once(self):
        flow, x = small("tarflow"), images(5, 6, 2)
        with torch.no_grad():
            flow.blocks[1].proj_out.weight.zero_()
            flow.blocks[1].proj_out.bias.zero_()
        assert guessing_metric(flow, x)["z"][1] == 0
        ranks = convergence_ranking(flow, x)
        assert ranks[1] == 0
        assert (ranks[[0, 2]] > 0).all()
        with torch.no_grad():
            flow.blocks[0].proj_out.weight *= 10
        assert convergence_ranking(flow, x)[0] > 5 * ranks[0]
