"""The channel order: a bijection that outlives everything, and the term that trains it."""

import copy
import io
import math

from lightning_modules.eiw_flow.shuffle import (
    LEARNED,
    MODES,
    ChannelOrder,
    Guider,
    Solver,
    channel_entropy,
    order_kl,
)

import pytest
import torch
from jacobians import images


def order(mode, channels=16, **options):
    torch.manual_seed(3)
    return ChannelOrder(channels, mode, **options)


def trainable(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("mode", MODES)
class TestEveryMode:
    def test_inverse_after_training_saving_and_reloading(self, mode):
        first, u = order(mode), images(8, 16, 4, 4).float()
        optimizer = torch.optim.SGD(first.parameters(), 10.0) if trainable(first) else None
        for _ in range(3):
            v = first.train()(u)
            if optimizer:
                first.kl(u, v).backward()
                optimizer.step()
        v = first.eval()(u)
        assert torch.equal(first.inverse(v), u)
        buffer = io.BytesIO()
        torch.save(first.state_dict(), buffer)
        second = ChannelOrder(16, mode, perm_seed=8)
        second.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
        assert torch.equal(second.eval()(u), v)
        assert torch.equal(second.inverse(v), u)

    def test_same_order_in_every_precision(self, mode):
        first = order(mode)
        for dtype in (torch.float64, torch.bfloat16):
            other = copy.deepcopy(first).to(dtype).eval()
            assert torch.equal(other.perm, first.perm)
            u = images(2, 16, 2, 2)
            assert torch.equal(other(u.to(dtype)), first.eval()(u).to(dtype))

    def test_evaluation_keeps_what_is_stored(self, mode):
        one = order(mode).eval()
        before = one.perm.clone()
        with torch.no_grad():
            for p in one.parameters():
                p.neg_()
        one(images(2, 16, 2, 2).float())
        assert torch.equal(one.perm, before)

    def test_the_generator_is_left_the_same(self, mode):
        order(mode)
        state = torch.get_rng_state()
        order("identity")
        assert torch.equal(state, torch.get_rng_state())

    def test_it_is_built_without_memory(self, mode):
        with torch.device("meta"):  # as for a price, before any run
            one = ChannelOrder(16, mode)
        assert one.perm.shape == (16,)

    def test_it_is_a_bijection(self, mode):
        one = order(mode, 9)
        one.train()(images(4, 9, 3, 3).float())
        assert sorted(one.perm.tolist()) == list(range(9))
        assert len(one.kept) == 4


def test_which_order():
    u = torch.arange(4.0).reshape(1, 4, 1, 1)
    assert order("reverse", 4)(u).flatten().tolist() == [3, 2, 1, 0]
    kept = {tuple(order("random", 8, perm_seed=s).kept.tolist()) for s in range(5)}
    assert len(kept) == 5
    assert torch.equal(order("random", 8, perm_seed=2).perm, order("random", 8, perm_seed=2).perm)
    torch.manual_seed(4)  # another model, another permutation
    other = ChannelOrder(8, "random", perm_seed=2)
    assert not torch.equal(other.perm, order("random", 8, perm_seed=2).perm)
    assert order("blocks", 16).perm.tolist() != list(range(16))
    assert {tuple(four) for four in order("blocks", 16).perm.reshape(4, 4).tolist()} == {
        tuple(range(c, c + 4)) for c in range(0, 16, 4)
    }
    orders = {tuple(order("blocks", 16, perm_seed=s).perm.tolist()) for s in range(200)}
    assert len(orders) == 24  # all there are of four fours
    with pytest.raises(ValueError, match="unknown channel order 'best'"):
        order("best")


def test_weights_put_the_largest_first_and_ties_in_place():
    one = order("param", 6).train()
    with torch.no_grad():
        one.solver.weight.copy_(torch.tensor([0.0, 2.0, 0.0, -1.0, 2.0, 0.0]))
    one(images(1, 6, 1, 1).float())
    assert one.perm.tolist() == [1, 4, 0, 2, 5, 3]


def test_free_logits_start_as_the_solver_s_and_move_as_fast():
    solver, free = order("eiw").solver, order("param").solver
    assert torch.allclose(free(), solver())
    first = free().detach()
    optimizer = torch.optim.Adamax(free.parameters(), lr=5e-3)
    free()[0].backward()
    optimizer.step()
    moved = (free() - first).detach()
    assert moved[0] == pytest.approx(-5e-3 * 16, rel=1e-4)  # the input of 16 channels is 16
    assert not moved[1:].any()


@pytest.mark.parametrize("channels", [248, 616])
@pytest.mark.parametrize("mode", ["eiw", "eiw_snapshot"])
def test_the_saturated_solver_trains_without_nan(mode, channels):
    one, u = order(mode, channels).train(), images(2, channels, 2, 2).float()
    assert (one.weights() == 0).float().mean() > 0.5  # many ties among the probabilities
    optimizer = torch.optim.Adamax(one.parameters(), 1e-3)
    for _ in range(3):
        loss = one.kl(u, one(u))
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad.isfinite().all() for p in one.parameters())
        optimizer.step()
    assert sorted(one.perm.tolist()) == list(range(channels))
    assert torch.equal(one.eval().inverse(one(u)), u)


class TestSizes:
    @pytest.mark.parametrize(
        ("channels", "solver", "guider"), [(248, 30876, 7440), (616, 190036, 46816)]
    )
    def test_published_counts(self, channels, solver, guider):
        assert trainable(Solver(channels)) == solver == (channels // 2) * (1 + channels)
        assert trainable(Guider(channels)) == guider
        assert trainable(order("eiw", channels)) == solver + guider

    def test_narrow_ones_have_a_hidden_unit(self):
        assert trainable(Guider(4)) == 8
        assert trainable(Solver(1)) == 2
        assert trainable(Solver(8, depth=4)) == 4 + 16 + 16 + 32
        assert trainable(Solver(8, depth=1)) == 8

    @pytest.mark.parametrize("mode", sorted(set(MODES) - set(LEARNED)))
    def test_fixed_orders_have_none(self, mode):
        assert trainable(order(mode)) == 0


class TestSolver:
    def test_its_input_only_rescales_the_logits(self):
        solver = Solver(16, input="unit")
        one = solver()
        solver.value = 16.0
        torch.testing.assert_close(solver(), 16 * one)

    def test_inputs(self):
        assert [Solver(16, input=i).value for i in ("raw", "unit", "log")] == [16, 1, math.log(16)]
        with pytest.raises(ValueError, match="raw, unit, log"):
            Solver(16, input="none")

    def test_free_logits_start_as_the_solver(self):
        assert torch.equal(order("param").solver(), order("eiw").solver())
        assert torch.equal(order("param").guider[0].weight, order("eiw").guider[0].weight)


class TestTerm:
    p = torch.tensor([[0.0, 1.0, 2.0], [1.0, -1.0, 0.5]], dtype=torch.float64)
    q = torch.tensor([0.3, 0.2, -1.0], dtype=torch.float64)

    def by_hand(self, kind):
        p, q = self.p.softmax(-1).tolist(), self.q.softmax(-1).tolist()
        each = {
            "paper": lambda a, b: a * math.log(a / b),
            "reverse": lambda a, b: b * math.log(b / a),
            "snapshot": lambda a, b: b * (math.log(b) - a),
        }[kind]
        return sum(each(a, b) for row in p for a, b in zip(row, q, strict=True)) / len(p)

    @pytest.mark.parametrize("kind", ["paper", "reverse", "snapshot"])
    def test_by_hand(self, kind):
        assert float(order_kl(self.p, self.q, kind)) == pytest.approx(
            self.by_hand(kind), rel=1e-12
        )

    @pytest.mark.parametrize("kind", ["paper", "reverse"])
    def test_zero_only_where_they_agree(self, kind):
        rows = torch.randn(200, 3, dtype=torch.float64)
        assert min(float(order_kl(r[None], self.q, kind)) for r in rows) > 0
        assert float(order_kl(self.q[None] + 5, self.q, kind)) == pytest.approx(0, abs=1e-15)

    def test_the_code_s_own_may_be_negative(self):
        assert order_kl(torch.tensor([[9.0, 0.0]]), torch.tensor([2.0, 0.0]), "snapshot") < 0

    @pytest.mark.parametrize("detach", [True, False])
    def test_gradient_reaches_the_features_unless_detached(self, detach):
        one = order("eiw", detach=detach).train()
        u = images(2, 16, 2, 2).float().requires_grad_()
        one.kl(u, one(u)).backward()
        assert (u.grad is None) if detach else (u.grad.abs().sum() > 0)
        assert all(p.grad.abs().sum() > 0 for p in one.parameters())

    def test_only_the_snapshot_reads_sorted_channels(self):
        u = images(2, 16, 2, 2).float()
        aligned, misaligned = order("eiw", kl="snapshot"), order("eiw_snapshot")
        assert misaligned.kind == "snapshot"
        v = aligned(u)
        assert torch.equal(v, misaligned(u))
        assert not torch.equal(u, v)
        assert aligned.kl(u, v) != misaligned.kl(u, v)
        assert misaligned.kl(v, v) == misaligned.kl(u, v)

    def test_fixed_orders_have_no_term(self):
        u = images(2, 16, 2, 2).float()
        assert order("random").kl(u, u) == 0


class TestSte:
    def test_values_are_the_same_and_the_solver_gets_a_gradient(self):
        u = images(3, 16, 2, 2).float()
        ste, eiw = (
            order("ste", solver_input="unit").train(),
            order("eiw", solver_input="unit").train(),
        )
        assert torch.equal(ste(u), eiw(u))
        (ste(u)[:, :8] * torch.arange(8.0)[:, None, None]).sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in ste.solver.parameters())
        assert not eiw(u).requires_grad


class TestOracle:
    def features(self, seed=0):
        scale = torch.tensor([3.0, 0.1, 1.0, 0.3])
        return images(64, 4, 4, 4, seed=seed).float() * scale[:, None, None]

    def test_low_entropy_first_and_its_opposite(self):
        for mode, wanted in (("oracle_entropy", [1, 3, 2, 0]), ("anti_oracle", [0, 2, 3, 1])):
            one = order(mode, 4).train()
            for seed in range(3):
                one(self.features(seed))
            assert one.perm.tolist() == wanted

    def test_its_running_entropy_is_unbiased_from_the_start(self):
        one = order("oracle_entropy", 4).train()
        one(self.features())
        torch.testing.assert_close(one.entropy, channel_entropy(self.features()))

    def test_a_frozen_order_stays(self):
        one = order("oracle_entropy", 4).train()
        one(self.features())
        one.frozen = True
        one(-self.features()[:, [1, 0, 3, 2]])
        assert one.perm.tolist() == [1, 3, 2, 0]


def test_entropy_of_channels_of_known_entropy():
    n, rng = 20_000, torch.Generator().manual_seed(1)
    normal = torch.randn(n, generator=rng) * 2
    uniform = torch.rand(n, generator=rng) * 3
    laplace = torch.distributions.Laplace(0.0, 0.5).icdf(torch.rand(n, generator=rng))
    exact = [0.5 * math.log(2 * math.pi * math.e * 4), math.log(3), 1 + math.log(2 * 0.5)]
    u = torch.stack([normal, uniform, laplace]).reshape(3, 100, 200).transpose(0, 1)[..., None]
    torch.testing.assert_close(channel_entropy(u), torch.tensor(exact), rtol=0, atol=0.03)
