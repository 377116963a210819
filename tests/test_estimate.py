"""Prices before a run: published parameter counts, FLOPs by hand, nothing allocated."""

import dataclasses
import math

from datamodules import MixtureData

import pytest
import tiny
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from reproduce import estimate as module
from reproduce import flops as counting
from reproduce import forecast
from reproduce.cells import expand
from reproduce.errors import RequestError
from reproduce.estimate import estimate, models
from reproduce.flops import Update
from reproduce.neural_entropy.analytic import ANALYTIC
from reproduce.neural_entropy.transport import EPOCHS, PROFILE
from reproduce.papers import find
from reproduce.records import Store, blank
from reproduce.target import Arm

NET = "model.init_args.net.init_args"


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(forecast, "PUBLISHED", tmp_path / "published")
    return Store(tmp_path / "results", "smoke")


def mlp_parameters(dim, widths, frequencies):
    """Dense layers with biases: two embeddings, two into each hidden one, one out; LayerNorms."""
    emb = 2 * frequencies
    (first, second), out = widths, (widths[1] + 1) * dim
    into = 2 * (emb + 1) * first + ((emb + 1) + (first + 1)) * second
    return 2 * (emb + 1) * emb + into + out + 2 * (first + second)


def mlp_flops(rows, dim, widths, frequencies):
    """2 FLOPs a multiplication. Backward: each dense layer's weights, and its input where that
    depends on parameters, which is not so in the two embeddings; frozen features none."""
    emb = 2 * frequencies
    (first, second), embeddings = widths, 2 * emb * emb
    inner = 2 * emb * first + (emb + first) * second + second * dim
    frozen = frequencies * (1 + dim)
    forward = frozen + embeddings + inner
    return 2 * rows * (forward + (embeddings + inner) + inner)


def cell(**overrides):
    """A smoke cell: widths 64 and 32, 32 frequencies, D = 3, batches of 8 x 4 draws."""
    arms = [Arm({}, {**tiny.CHEAP, **overrides})]
    return expand(tiny.target(arms=lambda tier: arms), "smoke")[0]


def custom(name, seed=0):
    """The same with a model of this file."""
    made = cell()
    model = {"class_path": f"{__name__}.{name}", "init_args": {}}
    return dataclasses.replace(made, seed=seed, config={**made.config, "model": model})


def no_real_model(monkeypatch):
    build = counting.build_on

    def only_meta(config, device):
        assert device == "meta"
        return build(config, device)

    monkeypatch.setattr(module, "build_on", only_meta)

    def no_other(config, device):
        raise AssertionError("a real model was built")

    monkeypatch.setattr(counting, "build_on", no_other)


# ------------------------------------------------------------------------ the paper's own sizes
def test_ne_epochs_has_the_published_counts_and_flops_by_hand(monkeypatch):
    no_real_model(monkeypatch)
    found = models(expand(EPOCHS, "paper"))
    # the paper's own count: 1,314,816 + 257 D
    assert [m.trainable for m in found] == [1_315_587, 1_316_358, 1_317_129]
    assert [m.frozen for m in found] == [0, 0, 0]
    for dim, model in zip((3, 6, 9), found, strict=True):
        assert model.trainable == mlp_parameters(dim, (512, 256), 256)
        assert model.name == "NeuralEntropy with MLP"
        assert set(model.axes.split("; ")) == {f"mixture D{dim}", "process vp, vpx, sl"}
        (training,) = model.trainings
        one = training.update
        assert one.flops == mlp_flops(320, dim, (512, 256), 256)
        assert (one.rows, training.updates, len(training.cells)) == (32, 51_200, 12)
        assert training.each == 51_200 * one.flops


def ends(target):
    """Of the cells that train and of those that do not, the first and the last."""
    cells = expand(target, "paper")
    kinds = ([c for c in cells if (c.updates[-1] > 0) is trains] for trains in (True, False))
    return {c.name: c for kind in kinds for c in kind[:1] + kind[-1:]}


def test_all_targets_have_a_price_whatever_machine_their_configs_ask_for(store, monkeypatch):
    no_real_model(monkeypatch)
    cells = {name: cell for t in find(["neural-entropy"]) for name, cell in ends(t).items()}
    found = models(cells.values())
    assert all(t.update.flops > 0 for m in found for t in m.trainings if t.updates)
    mlps = {1_314_816 + 257 * dim for dim in (1, 2, 3, 6, 9)}
    assert mlps | {1_115_297, 42_096_131} <= {m.trainable for m in found}
    still = len(expand(ANALYTIC, "paper"))
    assert f"nothing to train in {still} cells" in estimate([ANALYTIC], "paper", 4e14, store)
    assert "  updates               20,480\n" in estimate([PROFILE], "gpu", None, store)


def test_the_published_flow_is_priced_with_and_without_shuffle(store, monkeypatch):
    no_real_model(monkeypatch)
    arms = {c.axes["mode"]: c for c in expand(*find(["eiw-entropy"]), "paper")}
    only = [arms["identity"], arms["eiw"]]
    monkeypatch.setattr(module, "expand", lambda target, tier: only)
    said = estimate(find(["eiw-entropy"]), "paper", 4e14, store)
    assert "  trainable parameters  130,647,294\n" in said
    assert "  trainable parameters  130,922,462\n" in said
    assert "  than the first such   275,168 more = 0.2106 %\n" in said
    assert said.count("      backbone              128,250,894\n") == 2
    assert said.count("      Shuffle               275,168\n") == 1


def test_nothing_is_allocated(monkeypatch):
    no_real_model(monkeypatch)
    widths = [200_000, 200_000]  # 160 GB of weights
    (model,) = models([cell(**{f"{NET}.widths": widths, "data.init_args.batch_size": 40})])
    assert model.trainable == mlp_parameters(3, widths, 32) > 4e10
    assert model.trainings[0].update.flops == mlp_flops(40 * 4, 3, widths, 32)


# ------------------------------------------------------------------------------- FLOPs an update
def test_flops_are_those_of_a_real_update():
    (model,) = models([cell()])
    assert model.trainings[0].update.flops == mlp_flops(32, 3, (64, 32), 32)
    built = counting.build_on(cell().config, "cpu")
    real = next(iter(built.datamodule.train_dataloader()))
    assert model.trainings[0].update.flops == counting._count(built, real)


def test_the_batch_is_that_of_an_update():
    changes = ({"data.init_args.batch_size": 16}, {"model.init_args.draws": 8})
    changes = (*changes, {"data.init_args.n_train": 4})
    got = [models([cell(**c)])[0].trainings[0].update for c in changes]
    rows = [(16, 64), (8, 64), (4, 16)]  # of the data; with draws
    assert [t.rows for t in got] == [r for r, _ in rows]
    assert [t.flops for t in got] == [mlp_flops(r, 3, (64, 32), 32) for _, r in rows]


class Toy(LightningModule):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5, bias=False)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        self.log_dict({"twice": 2 * loss})
        return {"loss": loss}


class Frozen(Toy):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.extra = nn.Linear(3, 7).requires_grad_(False)


class Attention(Toy):
    def training_step(self, batch, batch_idx):
        q = self.layer(batch)[None, None]
        return scaled_dot_product_attention(q, q, q, is_causal=True).sum()


class Staged(Toy):
    """Two updates on one half of the layer, then on all of it."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.judge = nn.Linear(5, 1).requires_grad_(False)
        self.first, self.automatic_optimization = True, False

    def stages(self):
        for self.first, updates in ((True, 2), (False, None)):
            yield updates

    def training_step(self, batch, batch_idx):
        made = nn.functional.linear(batch, self.layer.weight[: 2 if self.first else 5])
        self.manual_backward(made.square().mean())
        if not self.first:
            self.judge.requires_grad_(True)
            self.manual_backward(self.judge(made.detach()).mean())
            self.judge.requires_grad_(False)
        return made.mean()


class Adaptive(Toy):
    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        return loss if float(loss.detach()) < 0 else self.layer(batch + 1).square().mean()


def test_a_model_of_any_making_is_counted(monkeypatch):
    no_real_model(monkeypatch)
    (toy,) = models([custom("Toy")])
    # 8 rows: forward and the weights' gradient; that of the data is not asked for
    assert (toy.name, toy.trainable, toy.parts) == ("Toy", 15, [])
    assert toy.trainings[0].update.flops == 2 * 2 * 8 * 3 * 5
    (frozen,) = models([custom("Frozen")])
    assert (frozen.trainable, frozen.frozen) == (15, 28)


def test_each_stage_has_its_price_and_a_judge_is_trained(monkeypatch):
    no_real_model(monkeypatch)
    (model,) = models([custom("Staged")])
    assert (model.trainable, model.frozen) == (15 + 6, 0)
    (training,) = model.trainings
    first, last = 2 * 2 * 8 * 3 * 2, 2 * 2 * 8 * 3 * 5 + 2 * 2 * 8 * 5
    assert training.update == Update(last, 8, False, ((first, 2),))
    assert training.each == 2 * first + 10 * last
    assert model.parts == [(0, "layer", 15), (0, "judge", 6)]


def test_attention_counts_on_a_cpu_too(monkeypatch):
    no_real_model(monkeypatch)
    (model,) = models([custom("Attention")])
    # two products of 8 x 8 x 5, and four in the gradient
    assert model.trainings[0].update.flops == 2 * 2 * 8 * 3 * 5 + 6 * 2 * 8 * 8 * 5


def test_where_numbers_decide_what_is_computed_a_few_rows_are(monkeypatch):
    (model,) = models([custom("Adaptive")])
    one = model.trainings[0].update
    assert (one.flops, one.rows) == (3 * 2 * 8 * 3 * 5, 8)


class Hungry(Toy):
    """It wants a file as soon as it is given numbers."""

    def training_step(self, batch, batch_idx):
        if batch.is_meta or math.isfinite(float(batch.sum())):
            raise RuntimeError if batch.is_meta else ValueError("weights.pth is missing")


def test_a_model_that_cannot_run_is_one_line():
    with pytest.raises(RequestError, match=r"^cannot price .*Hungry: .*weights.pth is missing"):
        models([custom("Hungry")])


@pytest.mark.parametrize("n", [None, 3])
def test_an_example_batch_looks_like_a_training_batch(n):
    data = MixtureData("D6", n_train=40, n_eval=8, batch_size=8)
    real, made = next(iter(data.train_dataloader())), data.example_batch(n)
    assert made.shape == (n or 8, 6)
    assert (made.dtype, made.shape[1:]) == (real.dtype, real.shape[1:])
    with torch.device("meta"):
        assert MixtureData("D6").example_batch().is_meta


# ------------------------------------------------------------------------------ what is distinct
def test_what_changes_no_architecture_makes_no_other_model():
    alike = [{}, {"model.init_args.lr": 9e-3}, {"model.init_args.process": "sl"}]
    other = [{f"{NET}.embed_x": False}, {f"{NET}.widths": [64, 16]}]
    found = models([cell(**c) for c in (*alike, *other)])
    assert [[len(t.cells) for t in m.trainings] for m in found] == [[3], [1], [1]]
    found = models(
        [cell(), cell(**{"trainer.max_steps": 24}), cell(**{"model.init_args.draws": 2})]
    )
    assert [[len(t.cells) for t in m.trainings] for m in found] == [[1, 1, 1]]
    assert [m.name for m in models([custom("Toy"), custom("Attention")])] == ["Toy", "Attention"]


# ---------------------------------------------------------------------------------- what is said
def test_the_page_by_hand(store):
    flops = mlp_flops(32, 3, (64, 32), 32)
    two = tiny.target(lrs=(1e-3, 2e-3))
    same = tiny.target("tiny-too", lrs=(2e-3,))
    said = estimate([two, same], "smoke", flops * 12 * 2 / 60, store)
    price = f"60 s for 2 cells, 30 s each, at {flops * 24 / 60:g} FLOP/s"
    assert said.splitlines() == [
        "tier smoke: 1 distinct model in 2 cells",
        "",
        "NeuralEntropy with MLP: lr 0.001, 0.002",
        "  trainable parameters  21,091",
        f"  FLOPs per update      {flops:,} (batch of 8)",
        f"  FLOPs per sample      {flops // 8:,}",
        "  updates               12",
        f"  FLOPs of a run        {flops * 12:.4g}",
        "  cells                 2 of tiny, tiny-too",
        f"  FLOPs in all          {flops * 24:.4g}",
        f"  price                 {price}",
        "",
        f"in all: {flops * 24:.4g} FLOPs; {price}",
        "FLOPs: matrix products and convolutions of training, forward and backward. Time: of one "
        "worker; what is measured after training is in recorded times alone.",
    ]
    assert mlp_parameters(3, (64, 32), 32) == 21_091


def record(store, cell, wall_s):
    rest = dict.fromkeys(("peak_mem_mb", "git_sha", "dirty", "utc"))
    done = {"status": "done", "wall_s": wall_s, "params": 1, "packages": {}}
    store.write(cell, {**blank(cell, None, ["tiny"]), **rest, **done})


def price(*args):
    return estimate(*args).split("  price                 ")[1].splitlines()[0]


def test_recorded_seconds_come_before_an_assumed_speed(store):
    target = tiny.target(lrs=(1e-3, 2e-3), seeds={"smoke": 2})
    first, _, third, _ = expand(target, "smoke")  # seeds outermost
    assumed = "at 1e+12 FLOP/s (assumed: --flops states yours)"
    assert price([target], "smoke", None, store) == f"1 s for 4 cells, 1 s each, {assumed}"
    record(store, first, 40.0)
    want = f"80 s for 2 cells, as recorded; 1 s for 2 cells, 1 s each, {assumed}"
    assert price([target], "smoke", None, store) == want  # its other seed, no other config
    record(store, third, 20.0)
    assert price([target], "smoke", None, store).startswith("60 s for 2 cells, as recorded;")
    assert "recorded;" not in estimate([target], "smoke", 1e15, store)


def test_long_prices_are_days(store):
    flops = mlp_flops(32, 3, (64, 32), 32) * 12
    target = tiny.target(lrs=(1e-3,))
    assert price([target], "smoke", flops / 86400 / 2500.25, store).startswith(
        "2,500.2 days for 1"
    )
    assert price([target], "smoke", flops / 86400, store).startswith("24 h 00 min for 1 cell at")


@pytest.mark.parametrize("flops", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_speed_is_refused(store, flops):
    with pytest.raises(RequestError, match="--flops must be a positive number"):
        estimate([tiny.target()], "smoke", flops, store)


def test_a_config_that_builds_nothing_is_one_line():
    with pytest.raises(RequestError, match=r"^cannot build .*NeuralEntropy: .*process 'warp'.*$"):
        models([cell(**{"model.init_args.process": "warp"})])
