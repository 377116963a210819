"""Exported models: the weights that were measured, a card of the record, and a safe way back."""

import copy
import json
import re
import shutil
import sys
from pathlib import Path

from lightning_modules.callbacks import Marks

import pytest
import tiny
import torch
import yaml
from foreign import changed, honest, save
from refusals import refused
from safetensors import safe_open

from reproduce import cards, runner
from reproduce import export as module
from reproduce.__main__ import main
from reproduce.cells import Cell, expand
from reproduce.export import export, load
from reproduce.records import Store

EMA = {"class_path": "lightning_modules.callbacks.EMA", "init_args": {"decay": 0.9}}
TARGET = tiny.target(lrs=(1e-3,))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The results of one cell with averaged weights, really trained and measured."""
    (cell,) = expand(TARGET, "smoke")
    config = copy.deepcopy(cell.config)
    config["trainer"]["callbacks"] = [EMA]
    cell = Cell(cell.paper, cell.tier, cell.seed, cell.axes, config)
    store = Store(tmp_path_factory.mktemp("finished") / "results", "smoke")
    assert runner.run_cell(cell, (tiny.NORM,), ["tiny"], store, lambda message: None) == "done"
    return store, cell


@pytest.fixture
def ask(finished, monkeypatch):
    """Make the tiny target ask for that one cell."""
    tiny.register(monkeypatch, TARGET)
    for asker in (module, cards):
        monkeypatch.setattr(asker, "expand", lambda *_: [finished[1]])


@pytest.fixture
def store(finished, ask, tmp_path):
    """A copy of those results that a test may change."""
    results = tmp_path / "results"
    shutil.copytree(finished[0].results, results)
    return Store(results, "smoke")


@pytest.fixture
def folder(store, finished):
    """The exported model."""
    list(export(["tiny"], store))
    return store.root / "models" / finished[1].name


# ------------------------------------------------------------------------------- there and back
def test_what_comes_back_is_what_was_measured(store, finished, folder):
    record, state = store.read(finished[1]), torch.get_rng_state()
    model = load(folder)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert model.seed == finished[1].seed
    saved = torch.load(store.run_dir(finished[1]) / "last.ckpt", weights_only=True)
    found = model.state_dict()
    assert found.keys() == saved["state_dict"].keys()
    assert all(torch.equal(v, saved["state_dict"][k]) for k, v in found.items())
    raw = saved["current_model_state"]
    assert not all(torch.equal(v, raw[k]) for k, v in found.items())
    measured = record["metrics"]["norm@1"]
    assert tiny.norm(model, None) == pytest.approx(measured, rel=1e-8)


def test_the_file_says_what_it_is(store, finished, folder):
    record = store.read(finished[1])
    with safe_open(folder / "model.safetensors", "pt") as file:
        about = json.loads(file.metadata()["entroflow"])
    assert about.pop("suite")
    assert about == {
        "class_path": "lightning_modules.NeuralEntropy",
        "config": record["config"],
        "cell": finished[1].name,
        "config_sha256": finished[1].sha256,
    }
    assert yaml.safe_load((folder / "config.yaml").read_text()) == record["config"]
    assert sorted(p.name for p in folder.iterdir()) == [
        *("README.md", "config.yaml", "model.safetensors")
    ]


def test_a_second_export_changes_no_byte(store, folder):
    before = {p: p.read_bytes() for p in folder.iterdir()}
    lines = list(export(["tiny", "tiny"], store))
    assert {p: p.read_bytes() for p in folder.iterdir()} == before
    assert lines[0].startswith(f"{folder}: ")
    assert lines[1:] == [f"1 models in {folder.parent}"]


# ------------------------------------------------------------------------------------- the card
def test_the_card_tells_the_record(store, finished, folder, monkeypatch, capsys):
    record, text = store.read(finished[1]), (folder / "README.md").read_text()
    for words in (
        "[arXiv:2409.03817](https://arxiv.org/abs/2409.03817)",
        "`lightning_modules.NeuralEntropy` with `lightning_modules.neural_entropy.MLP`",
        f"| {record['params']:,} trainable |",
        f"`{record['data_sha256']}`",
        "batch_size 8, mixture D3, n_eval 8, n_train 40",
        "| updates | 12 |",
        "exponential moving average",
        "| device | cpu, precision 32-true |",
        "- `tiny` (none), as the arm lr 0.001: Does the engine work?\n  - `positive`: The norm is",
        "nothing that it measures speaks to the paper",
        f"verify tiny --tier smoke --cell {record['cell']}\n",
        "    make tiny TIER=smoke RESULTS=mine\n",
    ):
        assert words in text, words
    norm = record["metrics"]["norm@1"]["norm"]
    assert f"| `norm` | {norm:.5g} |  | `norm@1` |" in text
    assert "train_loss" not in text  # no table of its target has it
    monkeypatch.chdir(folder.parent)
    exec(re.search(r"```python\n(.*?)```", text, re.S).group(1), {})
    assert capsys.readouterr().out == f"{record['params']}\n"


def test_a_card_has_units_and_limits_and_a_command_that_makes_this_seed():
    from reproduce.papers import targets

    target = targets()["ne-images"]
    assert target.seeds["small"] == 3
    cell = expand(target, "small", 5)[-1]
    metric, unit = next((m, u) for m, u in target.metrics.items() if u)
    key = target.evaluators[0].key
    record = {**honest(cell, [target.id]), "metrics": {key: {metric: 1234.5678}}}
    record = changed(record, "config.data.init_args.source", "cifar10_jpeg")
    text = cards.card({**record, "device": "a|b"}, "ab" * 32, {})
    assert f"| `{metric}` | 1234.6 | {unit} | `{key}` |" in text
    assert "its numbers are not comparable with printed ones" in text
    assert "`cifar10_jpeg` is not CIFAR-10" in text
    assert f"make {target.id} TIER=small RESULTS=mine SEEDS=5" in text
    assert r"| device | a\|b, precision" in text
    assert "those after the last update" in text
    text = cards.card(record, "ab" * 32, {"model.init_args.lr": 0.1})
    assert "It is a variant: a user has changed `model.init_args.lr`" in text
    assert "RESULTS=mine" not in text


# ---------------------------------------------------------------------------- nothing to export
def told(store, *words):
    before = sorted(store.results.rglob("*"))
    refused(lambda: list(export(["tiny"], store)), *words)
    assert sorted(store.results.rglob("*")) == before


def test_without_weights_the_mend_is_a_folder_of_ones_own(store, tmp_path, capsys):
    shutil.rmtree(store.root / "runs")
    mend = "make tiny TIER=smoke RESULTS={0}, then make export TARGET=tiny TIER=smoke RESULTS={0}"
    told(store, "no trained weights of tiny", "records are kept without", mend.format("mine"))
    mine = Store(tmp_path / "mine", "smoke")
    shutil.copytree(store.results, mine.results)
    told(mine, mend.format("mine-again"))  # what is done there is not trained again
    shutil.rmtree(mine.root)
    mine.root.mkdir()
    told(mine, mend.format(mine.results))
    variant = Store(tmp_path / "variant", "smoke")
    variant.changes = {"model.init_args.lr": 0.1}
    variant.root.mkdir(parents=True)
    told(variant, "run this variant under another --label")
    assert main(["export", "tiny", "--results", str(store.results)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no trained weights of tiny")


@pytest.mark.parametrize(
    ("key", "value"),
    [("status", "failed"), ("metrics", {"norm@1": {"norm": 1.0}}), ("targets", ["another"])],
)
def test_what_is_not_finished_is_not_exported(store, finished, key, value):
    store.write(finished[1], {**store.read(finished[1]), key: value})
    told(store, f"no trained weights of tiny in {store.root / 'runs'}: make tiny TIER=smoke")


def test_cells_without_weights_are_counted_and_what_trains_nothing_is_told(
    store, finished, monkeypatch
):
    (other,) = expand(tiny.target(lrs=(2e-3,)), "smoke")
    save(store.results, honest(other))
    idle = copy.deepcopy(other.config)
    idle["trainer"]["max_steps"] = 0
    idle = Cell(other.paper, "smoke", other.seed, {}, idle)
    monkeypatch.setattr(module, "expand", lambda *_: [finished[1], other, idle])
    *_, last = export(["tiny"], store)
    assert last.startswith("1 models in ")
    assert last.endswith("; 1 cells with a record have no weights here")
    monkeypatch.setattr(module, "expand", lambda *_: [idle])
    refused(lambda: list(export(["tiny"], store)), "tiny trains nothing at tier smoke")


@pytest.mark.parametrize("held", ["damage", "code", "numbers"])
def test_weights_that_are_not_weights(store, finished, held):
    path = Marks.path(store.run_dir(finished[1]), 12)
    if held == "damage":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        torch.save({"x": Path("code") if held == "code" else 1.0}, path)
    told(store, str(path), {"damage": "damaged", "code": "more than tensors"}.get(held, "tensors"))


# ------------------------------------------------------------------------------- loading safely
def test_a_folder_that_holds_none(folder, tmp_path):
    refused(lambda: load(tmp_path), "no model.safetensors in", str(tmp_path))
    (folder / "config.yaml").unlink()
    refused(lambda: load(folder), "No such file", "config.yaml", "export it again")


def test_a_config_that_was_changed_is_refused(folder, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"]["init_args"]["net"]["class_path"] = "evil.Net"
    path.write_text(yaml.safe_dump(config))
    refused(lambda: load(folder), "config.yaml is not the config")
    about, tensors = module._read(folder / "model.safetensors")
    module._save(tensors, {**about, "config": config}, folder / "model.safetensors")
    refused(lambda: load(folder), "names evil.Net, which is no class of", "export it again")
    assert "evil" not in sys.modules


def test_files_that_are_damaged_or_of_another_network(folder):
    path = folder / "model.safetensors"
    whole, (about, tensors) = path.read_bytes(), module._read(path)
    path.write_bytes(whole[:-4])
    refused(lambda: load(folder), f"{path} is damaged")
    module._save(dict(list(tensors.items())[1:]), about, path)
    refused(lambda: load(folder), "do not fit the network", about["suite"])
    module.save_file(tensors, path)
    refused(lambda: load(folder), "no exported model")
