"""The objective: its value at e = 0 and at the optimum, its weights, and the training on it."""

from itertools import islice

from datamodules import GaussianMixture, MixtureData
from lightning_modules import NeuralEntropy
from lightning_modules.callbacks import Diverged, LastCheckpoint, LossTrace
from lightning_modules.neural_entropy import MLP, PROCESSES
from lightning_modules.randomness import step_generator

import pytest
import torch
from lightning.pytorch import Trainer

EVERY = pytest.mark.parametrize("process", ["vp", "vpx", "sl"])

# section 5.3: (process, mixture) -> loss at the optimum, loss of a zero network; +- 1 % there
LOSSES = {
    ("vp", "D2-notebook"): (0.664, 0.859),
    ("vp", "D3"): (0.946, 1.144),
    ("vpx", "D3"): (2.235, 50.21),
    ("sl", "D3"): (2.583, 72.42),
    ("vp", "D6"): (1.851, 2.363),
    ("vpx", "D6"): (4.405, 108.47),
    ("sl", "D6"): (5.091, 156.54),
    ("vp", "D9"): (2.693, 3.869),
    ("vpx", "D9"): (6.519, 194.49),
    ("sl", "D9"): (7.558, 280.85),
}


class Scaled(torch.nn.Module):
    """``c e*`` of a mixture under a process."""

    def __init__(self, name: str, process: str, c: float) -> None:
        super().__init__()
        self.mixture, self.process, self.c = GaussianMixture.named(name), PROCESSES[process], c

    def forward(self, y, s):
        law = self.mixture.diffused(self.process.mu(s), self.process.std(s))
        return self.c * (law.score(y) - self.process.score_eq(y))


def even_draws(name: str, process: str, n: int = 1 << 15):
    """Points, times and noise from one Sobol sequence: far less error than random ones."""
    mixture, flow = GaussianMixture.named(name), PROCESSES[process]
    dim = mixture.dim
    sobol = torch.quasirandom.SobolEngine(2 + 2 * dim, scramble=True, seed=0)
    u = sobol.draw(n, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    k = torch.searchsorted(mixture.weights.cumsum(0), u[:, 1].contiguous())
    k = k.clamp(max=len(mixture.weights) - 1)
    normal = torch.special.ndtri(u[:, 2:])
    x = mixture.means[k] + mixture.stds[k, None] * normal[:, :dim]
    s = flow.s_min + (flow.s_max - flow.s_min) * u[:, 0]
    return x, s, normal[:, dim:]


@pytest.mark.parametrize(("process", "name"), LOSSES)
def test_loss_at_the_optimum_and_of_a_zero_network(process, name):
    draws = even_draws(name, process)
    for c, want in zip((1.0, 0.0), LOSSES[process, name], strict=True):
        loss = NeuralEntropy(Scaled(name, process, c), process).objective(*draws).mean()
        assert float(loss) == pytest.approx(want, rel=0.01)


# conventions.md and table 5.2
@pytest.mark.parametrize(("process", "s_tot"), [("vp", 1.097669), ("vpx", 259.88), ("sl", 259.91)])
@pytest.mark.parametrize("c", [0.0, 0.5])
def test_weighted_loss_is_l_em_plus_a_constant(process, s_tot, c):
    draws = even_draws("D3", process)
    at, best = (
        NeuralEntropy(Scaled("D3", process, k), process, weighting="ml").objective(*draws)
        for k in (c, 1.0)
    )
    assert float((at - best).mean()) == pytest.approx((1 - c) ** 2 * s_tot, rel=0.02)


@EVERY
def test_objective_by_hand(process):
    """Both sides of section 11, item 4, and the unweighted loss of equation 5."""
    flow, draws = PROCESSES[process], even_draws("D3", process, 256)
    x, s, z = draws
    net = Scaled("D3", process, 0.7)
    unit, ml = (NeuralEntropy(net, process, weighting=w).objective(*draws) for w in ("unit", "ml"))
    mu, std, sigma2 = (v[:, None] for v in (flow.mu(s), flow.std(s), flow.sigma2(s)))
    y = mu * x + std * z
    g, e = 2 * flow.drift(y, s[:, None]) / sigma2, net(y, s)
    left = (0.5 * sigma2 / std**2 * ((g + e) * std + z) ** 2).sum(1)
    right = (0.5 * sigma2 * (g + e + z / std) ** 2).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-9, atol=0)
    torch.testing.assert_close(ml, left, rtol=1e-9, atol=0)
    torch.testing.assert_close(unit, (((g + e) * std + z) ** 2).sum(1), rtol=1e-9, atol=0)


@EVERY
def test_objective_takes_images(process):
    x, z = torch.randn(2, 5, 1, 4, 3, dtype=torch.float64)
    s = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)

    class Net(torch.nn.Module):
        def forward(self, y, s):
            return y.sin() * s.reshape(-1, *[1] * (y.dim() - 1))

    model = NeuralEntropy(Net(), process, weighting="ml")
    flat = model.objective(x.flatten(1), s, z.flatten(1))
    torch.testing.assert_close(model.objective(x, s, z), flat)


def test_shapes_are_checked():
    model = NeuralEntropy(net())
    with pytest.raises(Exception, match=r"(?s)objective.*batch"):
        model.objective(torch.randn(4, 2), torch.rand(3), torch.randn(4, 2))


@pytest.mark.parametrize("option", [{"process": "ve"}, {"weighting": "snr"}])
def test_unknown_options_are_told_in_one_line(option):
    (value,) = option.values()
    with pytest.raises(ValueError, match=f"unknown .*{value}.*choose") as caught:
        NeuralEntropy(net(), **option)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------- training
def net(seed: int = 0) -> MLP:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MLP(2, widths=(32, 32), frequencies=32)


def objects(seed: int = 0, **options):
    model = NeuralEntropy(net(), **{"draws": 4, "lr": 3e-3, "seed": seed, **options})
    return model, MixtureData("D2", n_train=50, n_eval=20, batch_size=8, seed=seed)


def trainer(folder, steps: int, *callbacks, **options) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=1,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **{
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "limit_val_batches": 0,
            **options,
        },
    )


def fit(folder, steps: int, *callbacks, resume=None, seed: int = 0, **options):
    model, data = objects(seed, **options)
    run = trainer(folder, steps, *callbacks)
    run.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
    return model


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Killed(Exception):
    """Stands for a machine that went away."""


class Record(LossTrace):
    """Every loss and every batch; dies after update ``kill_at``."""

    def __init__(self, kill_at: int | None = None) -> None:
        super().__init__()
        self.losses, self.batches, self.kill_at = [], [], kill_at

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.losses.append(float(outputs["loss"]))
        self.batches.append(batch.clone())
        if trainer.global_step == self.kill_at:
            raise Killed


def held_out_loss(model: NeuralEntropy) -> float:
    draws = (v.float() for v in even_draws("D2", "vp", 4096))
    with torch.no_grad():
        return float(model.objective(*draws).mean())


def test_thirty_updates_lower_the_loss_and_repeat_bit_for_bit(tmp_path):
    first, again = Record(), Record()
    a = fit(tmp_path / "a", 30, first, lr=0.01)
    b = fit(tmp_path / "b", 30, again, lr=0.01)
    assert len(first.losses) == 30
    assert held_out_loss(a) < 0.85 * held_out_loss(NeuralEntropy(net()))
    assert same(a, b)
    assert first.losses == again.losses


def test_the_seed_changes_batches_and_noise(tmp_path):
    first, other = Record(), Record()
    fit(tmp_path / "a", 3, first)
    fit(tmp_path / "b", 3, other, seed=1)
    assert not torch.equal(first.batches[0], other.batches[0])
    assert first.losses[0] != other.losses[0]


def test_a_step_is_the_objective_on_its_own_generators_draws(tmp_path):
    """The loss of update k: points repeated, s over the process's times, z, from (seed, k)."""
    record = Record()
    model = fit(tmp_path, 3, record, process="sl", seed=5, lr=0.0)
    for k in range(3):
        rng = step_generator(5, "train", k)
        x = record.batches[k].repeat_interleave(4, 0)
        u, z = torch.rand(32, generator=rng), torch.randn(32, 2, generator=rng)
        loss = model.objective(x, 1e-5 + (1 - 2e-5) * u, z).mean().detach()
        assert float(loss) == pytest.approx(record.losses[k], rel=1e-6)


def test_killed_and_resumed_is_uninterrupted_bit_for_bit(tmp_path):
    whole, killed, resumed = Record(), Record(kill_at=25), Record()
    a = fit(tmp_path / "a", 40, whole, LastCheckpoint(10))
    with pytest.raises(Killed):
        fit(tmp_path / "b", 40, killed, LastCheckpoint(10))
    last = tmp_path / "b" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 20
    b = fit(tmp_path / "b", 40, resumed, LastCheckpoint(10), resume=last)
    assert same(a, b)
    # five updates were lost with the machine and done again, on the same batches
    assert len(resumed.batches) == 20
    assert all(map(torch.equal, resumed.batches, whole.batches[20:]))
    assert whole.losses == killed.losses[:20] + resumed.losses
    assert resumed.curve(40) == whole.curve(40)
    adam_a, adam_b = (
        torch.load(tmp_path / d / "last.ckpt", weights_only=True)["optimizer_states"][0]["state"]
        for d in "ab"
    )
    assert all(torch.equal(adam_a[i][k], adam_b[i][k]) for i in adam_a for k in adam_a[i])


def test_shorter_then_longer_is_the_longer_run(tmp_path):
    a = fit(tmp_path / "a", 40)
    fit(tmp_path / "b", 20, LastCheckpoint(10))
    b = fit(tmp_path / "b", 40, LastCheckpoint(10), resume=tmp_path / "b" / "last.ckpt")
    assert same(a, b)


def test_validation_does_not_change_training(tmp_path):
    model, data = objects()
    run = trainer(
        tmp_path / "b",
        12,
        limit_val_batches=2,
        val_check_interval=5,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
    )
    run.fit(model, datamodule=data)
    assert same(model, fit(tmp_path / "a", 12))
    assert run.callback_metrics["val/loss"].isfinite()


def test_test_and_predict_measure(tmp_path):
    model, data = objects()
    run = trainer(tmp_path, 1)
    (metrics,) = run.test(model, datamodule=data, verbose=False)
    assert metrics["test/S_NN"] > 0
    chunks = run.predict(model, datamodule=data)
    assert torch.cat(chunks).shape == (20,)
    torch.nn.init.zeros_(model.net.out.weight)
    (metrics,) = run.test(model, datamodule=data, verbose=False)
    assert metrics["test/S_NN"] == 0


class Sick(MLP):
    """Its output is NaN from the thirteenth call on."""

    calls = 0

    def forward(self, y, s):
        self.calls += 1
        return super().forward(y, s) * (float("nan") if self.calls >= 13 else 1.0)


@pytest.mark.parametrize("every", [1, 10])
def test_a_diverged_run_stops_in_one_line_and_saves_nothing_of_it(tmp_path, every):
    model = NeuralEntropy(Sick(2, widths=(8,), frequencies=4), draws=2, lr=3e-3)
    data = MixtureData("D2", n_train=50, n_eval=20, batch_size=8)
    # the checkpoint is named first, and still comes after the guard
    run = trainer(tmp_path, 40, LastCheckpoint(every), LossTrace())
    with pytest.raises(Diverged, match=r"nan at update 13: .*lr \(now 0.003\)") as caught:
        run.fit(model, datamodule=data)
    assert "\n" not in str(caught.value)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["global_step"] == (12 if every == 1 else 10)
    assert all(v.isfinite().all() for v in state["state_dict"].values())


def test_batches_come_in_the_order_of_step_batches(tmp_path):
    record = Record()
    fit(tmp_path, 9, record)
    _, data = objects()
    want = list(islice(data.train_dataloader(), 9))
    assert all(map(torch.equal, record.batches, want))
