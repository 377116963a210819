"""`entroflow` as a user types it: what is typed wins, and what is wrong is one line."""

import csv
import os
from pathlib import Path

import pytest
import tiny
import torch
import yaml

from reproduce.cli import COMMANDS, main
from reproduce.training import EntroflowCLI

CONFIGS = sorted((tiny.ROOT / "reproduce").glob("*/configs/*.yaml"))
TRAINED = [p for p in CONFIGS if p.stem.endswith((".smoke", ".small"))]
PRICED = [p for p in CONFIGS if p.stem.endswith((".gpu", ".paper"))]
SMOKE = tiny.ROOT / "reproduce/neural_entropy/configs/neural_entropy.smoke.yaml"


def run(command: str, folder: Path, *options: str, config: Path = SMOKE) -> int:
    """One command with all that it writes in ``folder``."""
    where = ["--trainer.default_root_dir", str(folder)]
    where += ["--trainer.logger.init_args.save_dir", str(folder)]
    return main([command, "-c", str(config), *where, *map(str, options)])


def cli(folder: Path, *options: str) -> EntroflowCLI:
    """The same, and everything that it has made."""
    where = ["--trainer.default_root_dir", str(folder), "--trainer.logger", "false"]
    command, *options = map(str, options)
    return EntroflowCLI(args=[command, "-c", str(SMOKE), *where, *options])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of five updates with a learning rate that no YAML has."""
    folder = tmp_path_factory.mktemp("trained")
    assert run("fit", folder, "--trainer.max_steps", 5, "--model.init_args.lr", 0.01) == 0
    return folder / "last.ckpt"


def lines(capsys) -> list[str]:
    out, error = capsys.readouterr()
    assert "Traceback" not in out + error
    assert "usage:" not in out + error
    return error.splitlines()


# ----------------------------------------------------------------------------------------- help
def test_the_front_page_names_every_command(capsys):
    assert main([]) == 0
    page = capsys.readouterr().out
    assert all(f"  {command} " in page for command in COMMANDS)
    shown = [line.split() for line in page.splitlines() if line.startswith("  entroflow ")]
    for words in shown:
        assert words[1] in COMMANDS
    assert SMOKE.is_file()
    assert str(SMOKE.relative_to(tiny.ROOT)) in page


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code in (0, None)
    page = capsys.readouterr().out
    assert "--marks.updates" in page
    assert "--checkpoint.every" in page


# -------------------------------------------------------------------------------------- configs
@pytest.mark.parametrize("config", TRAINED, ids=lambda p: p.stem)
def test_every_small_config_trains_as_it_stands(config, tmp_path, capsys):
    assert run("fit", tmp_path, "--trainer.max_steps", 5, config=config) == 0
    assert lines(capsys) == []
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 5
    assert (tmp_path / "weights-5.pt").is_file()
    saved = yaml.safe_load((tmp_path / "logs" / "config.yaml").read_text())
    assert saved["trainer"]["max_steps"] == 5


MLP, CIFAR = 1_315_587, 42_096_131  # D = 3, as the authors count; the networks of the paper
COUNTS = {
    "neural_entropy.gpu": MLP,
    "neural_entropy.paper": MLP,
    "neural_entropy_variant.gpu": MLP,
    "neural_entropy_variant.paper": MLP,
    "neural_entropy_mnist.gpu": 1_115_297,
    "neural_entropy_mnist.paper": 1_115_297,
    "neural_entropy_attention.gpu": 2_647_427,
    "neural_entropy_attention.paper": CIFAR,
    "neural_entropy_datasets.gpu": 1_264_067,
    "neural_entropy_datasets.paper": 1_264_067,
    "eiw_flow.gpu": 1_595_016,
    "eiw_flow.paper": 43_956_648,
    "eiw_flow_dense.gpu": 4_509_260,
    "eiw_flow_dense.paper": 130_922_462,
    "eiw_flow_cnf.gpu": 122_588,
    "simflow.gpu": 20_349_059,
    "simflow.paper": 70_285_699 + 1_364_650_752 + 2_765_633,  # VAE, flow, discriminator
    "simflow_pixels.gpu": 12_860_800,
    "simflow_pixels.paper": 460_142_784,
}


@pytest.mark.parametrize("config", PRICED, ids=lambda p: p.stem)
def test_every_large_config_can_be_built_without_its_machine(config):
    where = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.logger", "false"]
    with torch.device("meta"):
        made = EntroflowCLI(args=["-c", str(config), *where], run=False)
    parameters = list(made.model.parameters())
    assert parameters
    assert all(p.is_meta for p in parameters)
    assert sum(p.numel() for p in parameters) == COUNTS[config.stem]
    given = yaml.safe_load(config.read_text())
    small = COUNTS[config.stem] in (MLP, 1_115_297)  # networks that two cores can train in full
    on_cpu = config.stem.endswith("paper") and small
    assert given["trainer"]["accelerator"] == ("cpu" if on_cpu else "gpu")
    assert made.trainer.max_steps == given["trainer"]["max_steps"]
    assert made.datamodule.batch_size == given["data"]["init_args"]["batch_size"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
def test_every_config_prints(config, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "-c", str(config), "--print_config"])
    assert stop.value.code in (0, None)
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"] == yaml.safe_load(config.read_text())["model"] | {
        "init_args": printed["model"]["init_args"]
    }


# ------------------------------------------------------- what is typed wins over a checkpoint
def test_a_typed_batch_size_is_honoured(checkpoint, tmp_path):
    made = cli(tmp_path, "validate", "--ckpt_path", checkpoint, "--data.init_args.batch_size", 7)
    assert made.datamodule.batch_size == 7
    assert made.trainer.num_val_batches == [16]
    (batch, *_) = made.datamodule.val_dataloader()
    assert len(batch) == 7
    assert made.trainer.global_step == 0  # it trains nothing
    assert made.trainer.callback_metrics["val/loss"] > 0


def test_what_is_not_typed_comes_from_the_file_and_weights_from_the_checkpoint(
    checkpoint, tmp_path
):
    made = cli(tmp_path, "validate", "--ckpt_path", checkpoint)
    assert made.model.lr == made.model.hparams["lr"] == 0.001  # the file, not the stored 0.01
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(v, state[k]) for k, v in made.model.state_dict().items())


@pytest.mark.parametrize("command", ["validate", "test", "fit"])
def test_a_typed_learning_rate_wins_over_the_checkpoint_s(checkpoint, tmp_path, command):
    options = ["--ckpt_path", checkpoint, "--model.init_args.lr", 0.5]
    if command == "fit":
        options += ["--trainer.max_steps", 8]
    made = cli(tmp_path, command, *options)
    assert made.model.lr == made.model.hparams["lr"] == 0.5
    if command == "fit":
        assert made.trainer.global_step == 8
        # the optimizer's state comes from the checkpoint, with the learning rate in it
        assert made.trainer.optimizers[0].param_groups[0]["lr"] == 0.5
        stored = torch.load(tmp_path / "last.ckpt", weights_only=True)["hyper_parameters"]
        assert stored["lr"] == 0.5


def test_a_longer_run_goes_on_from_a_finished_one(checkpoint, tmp_path):
    options = ["--trainer.max_steps", 9, "--model.init_args.lr", 0.01]
    longer = cli(tmp_path / "a", "fit", "--ckpt_path", checkpoint, *options)
    assert longer.trainer.global_step == 9
    whole = cli(tmp_path / "b", "fit", *options)
    for a, b in zip(longer.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_test_and_predict_run(checkpoint, tmp_path, capsys):
    assert run("test", tmp_path, "--ckpt_path", checkpoint) == 0
    assert "test/S_NN" in capsys.readouterr().out
    assert run("predict", tmp_path, "--ckpt_path", checkpoint, "--data.init_args.n_eval", 8) == 0
    saved = torch.load(next(tmp_path.rglob("predictions.pt")), weights_only=True)
    assert saved["predictions"].shape == (8,)
    assert lines(capsys) == []
    made = cli(tmp_path, "test", "--ckpt_path", checkpoint, "--data.init_args.n_eval", 8)
    numbers = made.trainer.predict(made.model, made.datamodule)
    assert torch.cat(numbers).shape == (8,)
    assert torch.cat(numbers).isfinite().all()


# ---------------------------------------------------------------------------------- checkpoints
def test_two_fits_into_one_folder_leave_one_checkpoint(tmp_path, capsys):
    for steps in (4, 6):
        assert run("fit", tmp_path, "--trainer.max_steps", steps, "--checkpoint.every", 2) == 0
    assert lines(capsys) == []
    assert [p.name for p in tmp_path.rglob("*.ckpt")] == ["last.ckpt"]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 6
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"logs"}


def test_a_checkpoint_holds_plain_values(checkpoint):
    saved = torch.load(checkpoint, weights_only=True)
    given = saved["hyper_parameters"]
    assert {"process", "draws", "weighting", "lr", "seed"} <= set(given)
    for key, value in given.items():
        assert type(value) in (str, int, float, bool, type(None)), key
    assert str(checkpoint.parent) not in repr(given)


def test_a_diverged_run_ends_in_one_line_and_leaves_no_bad_checkpoint(tmp_path, capsys):
    options = ["--trainer.max_steps", 20, "--model.init_args.lr", "1e30", "--checkpoint.every", 1]
    assert run("fit", tmp_path, *options) == 1
    (line,) = lines(capsys)
    assert "model.init_args.lr" in line
    for path in tmp_path.rglob("*.ckpt"):
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(v.isfinite().all() for v in state.values())


# --------------------------------------------------------------------------------- one-line errors
class Attack:
    """Unpickled freely, it ends the test run."""

    def __reduce__(self):
        return os._exit, (66,)


def damaged(checkpoint: Path, kind: str) -> Path:
    raw, path = checkpoint.read_bytes(), checkpoint.with_name(f"{kind}.bad")
    if kind == "weights":  # readable, but no checkpoint
        torch.save(torch.load(checkpoint, weights_only=True)["state_dict"], path)
        return path
    if kind == "attack":
        torch.save(torch.load(checkpoint, weights_only=True) | {"hook": Attack()}, path)
        return path
    kinds = {"half": raw[: len(raw) // 2], "text": b"hello", "empty": b""}
    kinds["flipped"] = raw[:20000] + bytes(b ^ 255 for b in raw[20000:22000]) + raw[22000:]
    path.write_bytes(kinds[kind])
    return path


@pytest.mark.parametrize("kind", ["half", "text", "empty", "flipped", "weights", "attack"])
@pytest.mark.parametrize("command", ["validate", "fit"])
def test_a_corrupt_checkpoint_is_told_in_one_line(checkpoint, tmp_path, capsys, kind, command):
    bad = damaged(checkpoint, kind)
    assert run(command, tmp_path, "--ckpt_path", bad, "--trainer.max_steps", 7) == 2
    (line,) = lines(capsys)
    assert bad.name in line
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--model.init_args.lrr", "3"], "lrr"),
        (["--nothing", "3"], "--nothing"),
        (["--model.init_args.lr", "abc"], "abc"),
        (["--model.init_args.process", "abc"], "vp, vpx, sl"),
        (["--model.class_path", "lightning_modules.Nothing"], "Nothing"),
        (["--data.init_args.mixture", "D99"], "D2, D3"),
        (["--data.init_args.batch_size", "0"], "batch_size"),
        (["--trainer.max_steps", "x"], "max_steps"),
        (["--trainer.accelerator", "tpu"], "torch_xla"),
        (["--trainer.devices", "0"], "devices"),
        (["--trainer.strategy", "foo"], "foo"),
        (["--trainer.precision", "foo"], "precision"),
        (["--checkpoint.every", "0"], "checkpoint.every"),
        (["--marks.updates", "[0]"], "marks.updates"),
        (["--model.init_args.net.init_args.dim", "5"], "dim to 3"),
        (["--ckpt_path", "nowhere.ckpt"], "nowhere.ckpt"),
        (["--trainer.default_root_dir", f"{SMOKE}/below"], "Not a directory"),
    ],
    ids=lambda v: v if isinstance(v, str) else " ".join(v)[:40],
)
def test_a_wrong_request_is_told_in_one_line(options, says, tmp_path, capsys):
    assert run("fit", tmp_path, "--trainer.max_steps", 3, *options) == 2
    (line,) = lines(capsys)
    assert line.startswith("error: ")
    assert says in line
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    "text", [None, "", "- 1\n", "a: [1", "model: 3\n", b"\xff\xfe\x00"], ids=repr
)
def test_a_file_that_is_no_config_is_told_in_one_line(text, tmp_path, capsys):
    path = tmp_path / "x.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["fit", "-c", str(path)]) == 2
    (line,) = lines(capsys)
    assert line.startswith("error: ")


# ----------------------------------------------------------------------------------------- DDP
@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    """Same global batch: the same losses and, to rounding, the same weights."""
    options = ["--trainer.max_steps", "4", "--trainer.log_every_n_steps", "1"]

    def where(name):
        folder = str(tmp_path / name)
        names = ("--trainer.default_root_dir", "--trainer.logger.init_args.save_dir")
        return [word for key in names for word in (key, folder)]

    ddp = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]
    args = ["-m", "reproduce.cli", "fit", "-c", SMOKE, *options]
    done = tiny.python(*args, *where("two"), *ddp, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert main(["fit", "-c", str(SMOKE), *options, *where("one")]) == 0

    def losses(name):
        with (tmp_path / name / "logs" / "metrics.csv").open(newline="") as file:
            return [float(row["train/loss"]) for row in csv.DictReader(file)]

    assert len(losses("two")) == 4
    assert losses("two") == pytest.approx(losses("one"), rel=1e-5)
    a, b = (torch.load(tmp_path / n / "weights-4.pt", weights_only=True) for n in ("one", "two"))
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-5, atol=1e-6)
    assert [p.name for p in (tmp_path / "two").rglob("*.ckpt")] == ["last.ckpt"]
