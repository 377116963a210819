"""Autoregressive flows: Jacobians, causality, identity at the start, labels, published sizes."""

import math

from lightning_modules.simflow.flow import TokenFlow
from lightning_modules.simflow.sampling import inverse
from lightning_modules.simflow.tokens import to_map, to_tokens

import pytest
import torch
from jacobians import images, logdet_by_autograd, shaken

TARFLOW = {"conditioning": "additive", "dropped": "mean", "flip_first": False}
STARFLOW = {
    "conditioning": "prefix", "positions": "rope", "start_token": True, "scale": "softplus",
    "soft_clip": 4.0, "final_norm": True, "condition": "deep",
}  # fmt: skip
FAMILIES = {
    "simflow": {},
    "tarflow": TARFLOW,
    "starflow": STARFLOW,
    "prompts": {**STARFLOW, "prompt": (3, 5)},
    "shift and prefix": {**STARFLOW, "start_token": False},
    "volume preserving": {**TARFLOW, "volume_preserving": True},
    "none": {"conditioning": "none", "classes": 0},
}


def small(family="simflow", layers=(1, 2, 1), grid=(2, 3), channels=2, **changes):
    options = {"classes": 3, **FAMILIES[family], **changes}
    torch.manual_seed(0)
    flow = TokenFlow(channels, grid, width=16, layers=layers, head_dim=8, **options)
    return shaken(flow, 0.1)


def given(family, n=2):
    """Labels, one of them dropped, or prompts."""
    if family == "prompts":
        return images(n, 3, 5)
    return None if family == "none" else torch.tensor([1, -1, 0, 2])[:n]


def one(y, row):
    return None if y is None else y[row : row + 1]


@pytest.mark.parametrize("family", FAMILIES)
class TestEveryFamily:
    def test_logdet_is_that_of_the_jacobian(self, family):
        flow, x, y = small(family), images(2, 6, 2), given(family)
        logdet = flow(x, y).logdet
        for row in range(2):
            exact = logdet_by_autograd(lambda v, row=row: flow(v, one(y, row)).z, x[row : row + 1])
            torch.testing.assert_close(logdet[row : row + 1], exact, rtol=0, atol=1e-9)

    def test_a_block_is_triangular_in_its_order(self, family):
        """Exactly: token t of the block's order moves only tokens from t on."""
        flow, y = small(family), given(family, 1)
        for block in flow.blocks:
            x = images(1, 6, 2)
            jacobian = torch.autograd.functional.jacobian(
                lambda v, block=block: block.ordered(block(block.ordered(v), y)[0]), x
            )[0, :, :, 0]
            early, late = torch.triu_indices(6, 6, 1)
            assert not jacobian[early, :, late].any()
            assert all(jacobian[t, :, t].diagonal().all() for t in range(6))
            assert jacobian[late, :, early].any()

    def test_tokens_after_change_nothing_before(self, family):
        flow, y = small(family), given(family, 1)
        for block in flow.blocks:
            x = images(1, 6, 2)
            moved = x.clone()
            moved[:, 3] += 1
            condition = block.condition(y, 1)
            for a, b in zip(
                block.window(x[:, :-1], condition), block.window(moved[:, :-1], condition),
                strict=True,
            ):  # fmt: skip
                assert torch.equal(a[:, :4], b[:, :4])
                # shifts alone have no scale that could differ
                assert (a[:, 4:] != b[:, 4:]).any() or not a.any()

    def test_log_prob_is_the_prior_and_the_logdet(self, family):
        flow, x, y = small(family), images(2, 6, 2), given(family)
        flow.var.fill_(2.0)
        found = flow(x, y)
        gauss = torch.distributions.Normal(0.0, math.sqrt(2.0))
        expected = gauss.log_prob(found.z).sum((1, 2)) + found.logdet
        torch.testing.assert_close(found.log_prob, expected)
        assert torch.equal(flow.log_prob(x, y), found.log_prob)

    def test_one_token(self, family):
        flow, x, y = small(family, grid=(1, 1)), images(2, 1, 2), given(family)
        found = flow(x, y)
        if flow.shape.start_token:
            assert (found.z != x).all()
        else:
            assert torch.equal(found.z, x)
            assert not found.logdet.any()

    def test_hidden_states_of_a_tap_are_those_of_the_run(self, family):
        """In the order of the image, and without an effect on the result."""
        flow, x, y = small(family), images(2, 6, 2), given(family)
        plain = flow(x, y)
        for k, block in enumerate(flow.blocks):
            tapped = flow(x, y, tap=(k, 0))
            torch.testing.assert_close(tapped.log_prob, plain.log_prob, rtol=1e-12, atol=0)
            assert tapped.hidden.shape == (2, 6, 16)
            moved = x.clone()
            moved[:, 2] += 1
            if k == 0:
                changed = (flow(moved, y, tap=(0, 0)).hidden != tapped.hidden).any(2)[0]
                later = torch.arange(6) <= 2 if block.flip else torch.arange(6) >= 2
                if block.first is not None:
                    later = torch.arange(6) < 2 if block.flip else torch.arange(6) > 2
                assert changed.tolist() == later.tolist()


def test_blocks_start_as_the_identity():
    for family in ("simflow", "tarflow", "starflow"):
        torch.manual_seed(0)
        options = {"classes": 3, **FAMILIES[family]}
        flow = TokenFlow(2, (2, 3), width=16, layers=(1, 1), head_dim=8, **options)
        x = torch.randn(4, 6, 2)
        found = flow(x, torch.tensor([0, 1, 2, -1]))
        torch.testing.assert_close(found.z, x, rtol=0, atol=1e-6)
        torch.testing.assert_close(found.logdet, torch.zeros(4), rtol=0, atol=1e-6)
    biased = TokenFlow(2, (2, 3), 16, (1, 1), 8, classes=3, **TARFLOW, zero_bias=False)
    assert not torch.allclose(biased(x).z, x)


def test_directions_alternate():
    assert [b.flip for b in small(layers=(1,) * 6).blocks] == [True, False] * 3
    assert [b.flip for b in small("tarflow", layers=(1,) * 5).blocks] == [False, True] * 2 + [
        False
    ]


class TestLabels:
    def test_a_dropped_one_has_a_row_of_its_own(self):
        flow, x = small(), images(1, 6, 2)
        values = [flow.log_prob(x, torch.tensor([y])).item() for y in (-1, 0, 1, 2)]
        assert len(set(values)) == 4
        assert flow.log_prob(x).item() == values[0]
        assert flow.blocks[0].table.shape[0] == 4

    def test_or_is_the_mean_of_all(self):
        flow, x = small("tarflow"), images(1, 6, 2)
        before = flow.log_prob(x).item()
        with torch.no_grad():
            for block in flow.blocks:
                assert block.table.shape[0] == 3
                block.table[:] = block.table.mean(0)
        assert flow.log_prob(x, torch.tensor([1])).item() == pytest.approx(before, abs=1e-12)

    def test_a_label_in_front_is_a_one_hot_prompt(self):
        flow, x = small("starflow", condition="all"), images(2, 6, 2)
        y = torch.tensor([2, -1])
        one_hot = torch.eye(4).double()[[2, 3]][:, None]
        torch.testing.assert_close(flow.log_prob(x, y), flow.log_prob(x, one_hot), rtol=0, atol=0)

    def test_no_prompt_is_an_empty_one(self):
        flow, x = small("prompts", condition="all"), images(2, 6, 2)
        empty = flow(x, torch.zeros(2, 3, 5).double())
        assert torch.equal(flow(x).z, empty.z)
        assert torch.equal(flow(x, torch.full((2,), -1)).z, empty.z)
        assert not torch.allclose(flow(x, given("prompts")).z, empty.z)
        z = images(2, 6, 2)
        assert torch.equal(inverse(flow, z).x, inverse(flow, z, torch.zeros(2, 3, 5).double()).x)
        with pytest.raises(ValueError, match="conditioned on prompts: give these, not labels"):
            flow(x, torch.tensor([1, -1]))

    def test_only_the_deep_block_sees_it_where_it_is_told_to(self):
        flow, x = small("starflow"), images(2, 6, 2)
        first, last = flow.blocks[0], flow.blocks[-1]
        a, b = torch.tensor([0, 0]), torch.tensor([1, 2])
        assert torch.equal(first(x, a)[0], first(x, b)[0])
        assert not torch.equal(last(x, a)[0], last(x, b)[0])
        assert first.prompt is None


def test_a_scaled_input_costs_its_logarithm():
    """Section 3.2: x -> s x raises the NLL by N log s where the flow is scaled along."""
    flow, x = small("none", layers=(1,)), images(2, 6, 2)
    s = 3.0
    inner = flow.log_prob(x)

    def outer(v):
        return flow.log_prob(v / s) - flow.dims * math.log(s)

    torch.testing.assert_close(outer(s * x), inner - flow.dims * math.log(s))


def test_the_priors_variance_follows_shifts_alone():
    flow, z = small("volume preserving"), 2 * torch.ones(3, 6, 2).double()
    flow.follow(z, 0.25)
    torch.testing.assert_close(flow.var, torch.full((6, 2), 1.75).double())
    plain = small("tarflow")
    plain.follow(z)
    assert torch.equal(plain.var, torch.ones(6, 2).double())


@pytest.mark.parametrize(
    ("width", "layers", "millions", "parts"),
    [
        (1152, [2, 2, 2, 2, 2, 46], 1365, None),
        (1024, [2, 2, 2, 2, 2, 14], 475, (453.0, 12.6, 6.2, 1.6, 1.2)),
    ],
)
def test_published_sizes(width, layers, millions, parts):
    with torch.device("meta"):
        flow = TokenFlow(width=width, layers=layers)
    count = sum(p.numel() for p in flow.parameters())
    assert round(count / 1e6) == millions
    d, n = width, sum(layers)
    layer = (3 * d + 3) * d + (d + 1) * d + 2 * 4 * d * d + 5 * d + 6 * (d + 1) * d
    heads, tables, positions = 6 * 2 * (d + 1) * d, 6 * 1001 * d, 6 * 256 * d
    ends = 6 * ((64 + 1) * d + (d + 1) * 128)
    assert count == n * layer + heads + tables + positions + ends
    if parts:  # the breakdown of the source leaves biases out
        found = (18 * d * d * n, 12 * d * d, tables, positions, 6 * 192 * d)
        assert [round(v / 1e6, 1) for v in found] == list(parts)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"conditioning": "film"}, "unknown conditioning 'film': choose one of none, additive"),
        ({"positions": "alibi"}, "unknown positions"),
        ({"scale": "relu"}, "unknown scale"),
        ({"dropped": "zero"}, "unknown dropped"),
        ({"condition": "first"}, "unknown condition"),
        ({"width": 20, "head_dim": 8}, "heads of 8 features do not divide a width of 20"),
        ({"classes": 0}, "adaln conditioning needs classes"),
        ({"layers": []}, "at least one block"),
    ],
)
def test_impossible_flows_are_one_line(changes, says):
    with pytest.raises(ValueError, match=says):
        TokenFlow(**{"grid": (2, 2), "width": 16, "head_dim": 8, "layers": [1], **changes})


class TestTokens:
    def test_order_of_features(self):
        x = torch.arange(2 * 4 * 4).reshape(1, 2, 4, 4).float()
        channel, pixel = to_tokens(x, 2), to_tokens(x, 2, "pixel")
        corner = x[0, :, :2, 2:]  # the second token
        assert channel[0, 1].tolist() == corner.flatten().tolist()
        assert pixel[0, 1].tolist() == corner.permute(1, 2, 0).flatten().tolist()
        for order, tokens in (("channel", channel), ("pixel", pixel)):
            assert torch.equal(to_map(tokens, (2, 2), 2, order), x)

    def test_sides_that_patches_do_not_divide(self):
        with pytest.raises(ValueError, match="patches of 3 do not divide 4 x 4 pixels"):
            to_tokens(torch.zeros(1, 1, 4, 4), 3)
