"""Cells: named by what they compute, shared by all who ask for it, resolved from flat YAML."""

import copy
import dataclasses
import hashlib
import json
import re

import pytest
import tiny
import yaml

from reproduce.__main__ import main
from reproduce.cells import Cell, expand, override, resolve
from reproduce.errors import RequestError
from reproduce.neural_entropy.transport import EPOCHS, PROFILE, arm
from reproduce.papers import PAPERS, seeds, targets
from reproduce.target import TIERS, Arm

CONFIGS = sorted((tiny.ROOT / "reproduce").glob("*/configs/*.yaml"))
SEEDS = (1, 7, 17, 23, 42)


def cell(**changes) -> Cell:
    made = resolve(EPOCHS, "smoke", arm("vp", "D3"), 1)
    config = copy.deepcopy(made.config)
    for dotted, value in changes.pop("config", {}).items():
        *path, last = dotted.split(".")
        node = config
        for key in path:
            node = node.setdefault(key, {})
        node[last] = value
    return dataclasses.replace(made, config=config, **changes)


# --------------------------------------------------------------------------------------- names
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.default_root_dir", "/elsewhere"),
        ("trainer.logger.init_args.save_dir", "/elsewhere"),
        ("trainer.logger", False),
        ("trainer.enable_progress_bar", False),
        ("data.init_args.root", "/my/data"),
        ("trainer.callbacks", [{"init_args": {"dirpath": "/a"}}]),
    ],
)
def test_where_it_runs_does_not_name_a_cell(key, value):
    plain = cell(config={"trainer.callbacks": [{"init_args": {"dirpath": "/b"}}]})
    moved = cell(
        config={"trainer.callbacks": [{"init_args": {"dirpath": "/b"}}], key: value},
    )
    assert moved.sha256 == plain.sha256
    assert moved.name == plain.name


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 7},
        {"tier": "small"},
        {"config": {"model.init_args.lr": 0.0011}},
        {"config": {"model.init_args.net.init_args.widths": [64, 33]}},
        {"config": {"model.init_args.process": "sl"}},
        {"config": {"data.init_args.n_train": 1023}},
        {"config": {"trainer.max_steps": 301}},
        {"config": {"trainer.precision": "bf16-mixed"}},
        {"config": {"marks.updates": [50, 100]}},
        {"config": {"trainer.callbacks": [{"class_path": "EMA", "init_args": {"decay": 0.9}}]}},
    ],
    ids=str,
)
def test_what_it_computes_names_a_cell(changes):
    assert cell(**changes).sha256 != cell().sha256
    assert cell(**changes).name != cell().name


def test_the_order_of_keys_does_not_name_a_cell():
    turned = dict(reversed(cell().config.items()))
    assert cell().sha256 == dataclasses.replace(cell(), config=turned).sha256


@pytest.mark.parametrize("tier", TIERS)
def test_every_target_resolves_at_every_tier(tier):
    for target in targets().values():
        cells = expand(target, tier)
        names = [c.name for c in cells]
        assert len(set(names)) == len(names), target.id
        assert bool(names) != bool(target.not_run), target.id
        assert len({json.dumps(dict(c.axes)) + str(c.seed) for c in cells}) == len(cells)
        for one in cells:
            digest = hashlib.sha256(
                json.dumps([tier, one.seed, _pathless(one.config)], sort_keys=True).encode()
            ).hexdigest()
            assert one.sha256 == digest
            assert re.fullmatch(r"[a-z0-9._-]+-" + digest[:8], one.name)
            assert one.config["seed_everything"] == one.seed in PAPERS[one.paper][1]
            assert one.updates == sorted(set(one.updates))
            assert one.updates[-1] == one.config["trainer"]["max_steps"]


def _pathless(config):
    config = copy.deepcopy(dict(config))
    for key in ("default_root_dir", "logger"):
        config["trainer"].pop(key)
    return config


def test_a_source_from_the_hub_gives_a_plain_file_name():
    one = cell(
        config={"data.init_args.mixture": None, "data.init_args.source": "hub:ylecun/mnist"}
    )
    assert re.fullmatch(r"[a-z0-9._-]+", one.name), one.name


def test_names_are_the_same_in_every_process(tmp_path):
    args = ("run", "ne-epochs", "ne-profile", "--tier", "small", "--print")
    said = tiny.python("-m", "reproduce", *args, "--results", tmp_path / "r", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    lines = dict(line.split(maxsplit=1) for line in said.stdout.splitlines()[:-1])
    cells = [*expand(EPOCHS, "small"), *expand(PROFILE, "small")]
    assert set(lines) == {c.name for c in cells}
    assert said.stdout.splitlines()[-1] == f"{len(lines)} of {len(lines)} cells to run"
    assert not (tmp_path / "r").exists()  # to look is not to touch


# -------------------------------------------------------------------------------------- sharing
@pytest.mark.parametrize(("tier", "mixture"), [("smoke", "D3"), ("small", "D6"), ("paper", "D6")])
def test_two_targets_that_ask_for_one_model_share_its_cell(tier, mixture):
    epochs, profile = ({c.name: c for c in expand(t, tier)} for t in (EPOCHS, PROFILE))
    shared = epochs.keys() & profile.keys()
    assert len(shared) == EPOCHS.seeds[tier]
    for name in shared:
        one = epochs[name]
        assert (one.axes["process"], one.axes["mixture"]) == ("vpx", mixture)
        assert (one.axes, one.seed, one.config) == (
            profile[name].axes,
            profile[name].seed,
            profile[name].config,
        )


# -------------------------------------------------------------------------------------- configs
@pytest.mark.parametrize(
    "key",
    [
        "model.init_args.learning_rate",
        "model.init_arg.lr",
        "trainer.max_steps.more",
        "marks.updates.0",
        "nothing",
        "",
        "model.",
    ],
)
def test_a_grid_cannot_add_a_key(key):
    with pytest.raises(RequestError, match=re.escape(repr(key))) as caught:
        resolve(EPOCHS, "smoke", Arm({}, {key: 1}), 1)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_stops_a_run_before_its_first_cell(tmp_path, monkeypatch, capsys):
    wrong = tiny.target(arms=lambda tier: [Arm({"lr": 1}, {"model.init_args.lrr": 1})])
    tiny.register(monkeypatch, wrong)
    assert main(["run", "tiny", "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "model.init_args.lrr" in error


def test_resolving_leaves_the_yaml_as_it_was():
    before = resolve(EPOCHS, "smoke", arm("vp", "D3"), 1)
    node = resolve(EPOCHS, "smoke", arm("sl", "D3"), 7).config
    node["model"]["init_args"]["lr"] = 99
    node["marks"]["updates"].append(7)
    assert resolve(EPOCHS, "smoke", arm("vp", "D3"), 1) == before
    config = {"a": {"b": [1]}}
    assert override(config, {"a.b": [2]}) == {"a": {"b": [2]}}
    assert config == {"a": {"b": [1]}}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_config_is_flat_complete_and_for_a_known_tier(path):
    _, tier = path.stem.rsplit(".", 1)
    assert tier in TIERS
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"seed_everything", "model", "data", "trainer", "marks", "checkpoint"} <= set(config)
    assert f"-c {path.relative_to(tiny.ROOT)}" in path.read_text(encoding="utf-8")
    assert f"results/{tier}/runs/" in config["trainer"]["default_root_dir"]
    # YAML 1.1 reads 1e-4 as a word: it would enter the hash as one
    assert isinstance(config["model"]["init_args"]["lr"], float)


def test_every_target_has_a_config_at_every_tier():
    wanted = {
        (t.package, f"{arm.config or t.config}.{tier}")
        for t in targets().values()
        for tier in TIERS
        for arm in t.arms(tier)
    }
    assert wanted == {(p.parent.parent.name, p.stem) for p in CONFIGS}


def test_a_config_that_is_not_there_is_told_by_name():
    with pytest.raises(RequestError, match=r"nothing\.small\.yaml"):
        expand(dataclasses.replace(EPOCHS, config="nothing"), "small")


# ---------------------------------------------------------------------------------------- seeds
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_n_seeds_are_the_first_n_of_the_papers(n):
    assert seeds(EPOCHS, "smoke", n) == SEEDS[:n] == PAPERS["neural-entropy"][1][:n]
    cells = expand(EPOCHS, "smoke", n)
    assert [c.seed for c in cells] == [s for s in SEEDS[:n] for _ in range(3)]  # whole pairs first


def test_without_a_number_a_target_takes_its_own():
    assert seeds(EPOCHS, "small") == (1, 7, 17)
    assert seeds(EPOCHS, "smoke") == (1,)


@pytest.mark.parametrize("n", ["0", "-1", "6", "1000000", "two", "1.5"])
def test_seeds_that_the_paper_does_not_have_are_refused(n, tmp_path, capsys):
    assert main(["run", "ne-epochs", f"--seeds={n}", "--results", str(tmp_path / "r")]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert n in error


def test_updates_are_the_marks_up_to_the_last_update():
    assert cell().updates == [50, 100, 200, 300]
    assert cell(config={"trainer.max_steps": 150}).updates == [50, 100, 150]
    assert cell(config={"trainer.max_steps": 0, "marks.updates": []}).updates == [0]
