"""What the config of a record may name: nothing is imported, opened or built but our classes."""

import sys
from argparse import ArgumentError

import pytest
import tiny
from foreign import changed, honest, renamed, save
from lightning.fabric.utilities.exceptions import MisconfigurationException

from reproduce.cells import expand
from reproduce.errors import RequestError
from reproduce.papers import targets
from reproduce.target import TIERS
from reproduce.training import build
from reproduce.trust import read

NET = "config.model.init_args.net"
MLP = {"class_path": "lightning_modules.neural_entropy.MLP", "init_args": {"dim": 3}}

# what jsonargparse imports, calls or opens when it is given such a config
TAKEN = {
    "nested class": (NET, {"class_path": "evil.Net"}),
    "bare string": (NET, "evil.Net"),
    "YAML in a string": (NET, "{class_path: evil.Net}"),
    "function": (NET, "evil.make"),
    "file": (NET, "evil.yaml"),
    "absolute file": (NET, "FOLDER/evil.yaml"),
    "file behind a protocol": (NET, "simplecache::file://FOLDER/evil.yaml"),
    "more sections": ("config.config", "all.yaml"),
    "model": ("config.model.class_path", "evil.Net"),
    "model as a string": ("config.model", "evil.Net"),
    "data": ("config.data.class_path", "evil.Net"),
    "callback": ("config.trainer.callbacks", ["evil.Net"]),
    "one more callback": ("config.trainer.callbacks+", "evil.Net"),
    "plugin": ("config.trainer.plugins", [{"class_path": "evil.Net"}]),
    "profiler": ("config.trainer.profiler", "evil.Net"),
    "callable of an allowed class": (
        "config.trainer.callbacks",
        [
            {
                "class_path": "lightning.pytorch.callbacks.LambdaCallback",
                "init_args": {"on_fit_start": "evil.make"},
            }
        ],
    ),
    "logger, which no hash sees": ("config.trainer.logger", {"class_path": "evil.Net"}),
}

CLASSES = [
    "subprocess.Popen",
    "torch.hub.load",
    "torch.load",
    "torch.utils.cpp_extension.load",
    "os.system",
    "builtins.exec",
    # allowed modules import others: their attributes lead anywhere
    "lightning_modules.callbacks.os.system",
    "lightning_modules.callbacks.torch.load",
    "lightning_modules.callbacks.torch.nn.Linear",
    "lightning_modules.callbacks.Path",
    "lightning.pytorch.strategies.launchers.subprocess_script.subprocess.Popen",
    "torch.nn.modules.module.Any",
    # no classes, or none that a config needs
    "lightning_modules.callbacks.load_whole",
    "lightning_modules.NeuralEntropy.load_from_checkpoint",
    "lightning_modules.callbacks.__loader__",
    "lightning_modules.neural_entropy.Nothing",
    "lightning_modules.nothing.MLP",
    "lightning_modules_too.MLP",
    "lightning.pytorch.cli.LightningCLI",
    "lightning.pytorch.loggers.CSVLogger",
    "torch.nn.init.kaiming_normal_",
    "MLP",
    "",
    ".MLP",
    "lightning_modules..MLP",
    "lightning_modules.MLP\n",
    None,
    7,
    ["lightning_modules.neural_entropy.MLP"],
]


@pytest.fixture
def record():
    return honest(expand(tiny.target(), "smoke")[0])


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module that leaves a mark when it is imported, and YAML files that name it."""
    mark = tmp_path / "mark"
    (tmp_path / "evil.py").write_text(
        f"from pathlib import Path\nfrom torch import nn\nPath({str(mark)!r}).touch()\n"
        "class Net(nn.Module):\n    pass\n"
        "def make(*args) -> nn.Module:\n    return nn.Identity()\n"
    )
    (tmp_path / "evil.yaml").write_text("class_path: evil.Net\n")
    (tmp_path / "all.yaml").write_text("model:\n  init_args:\n    net: evil.Net\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield mark
    sys.modules.pop("evil", None)


def refused(path):
    with pytest.raises(RequestError) as caught:
        read(path, "smoke")
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 1000
    assert path.name in said
    assert "config" in said.partition(": ")[2]


# ------------------------------------------------------------------------------------- accepted
@pytest.mark.parametrize("tier", TIERS)
def test_every_config_of_the_suite_may_come_from_elsewhere(tier, tmp_path):
    for target in targets().values():
        for cell in expand(target, tier):
            read(save(tmp_path, honest(cell)), tier)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (NET, {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1}}),
        (NET, {"class_path": "torch.nn.Sequential", "init_args": {"args": [MLP]}}),
        ("config.trainer.strategy", {"class_path": "lightning.pytorch.strategies.DDPStrategy"}),
        ("config.trainer.strategy", "ddp_spawn"),
        ("config.trainer.callbacks", [{"class_path": "lightning_modules.callbacks.EMA"}]),
        ("config.model.init_args.optimizer", {"class_path": "torch.optim.AdamW"}),
        ("config.data.init_args.source", "hub:owner-1/set_2.x@v1.0"),
        ("config.data.init_args.mixture", "D2-notebook"),
        ("config.model.init_args.note", ""),
        ("config.model.init_args.numbers", [1, -2.5, None, True, 1e-300]),
    ],
    ids=repr,
)
def test_what_a_config_may_name(record, tmp_path, key, value):
    read(save(tmp_path, renamed(changed(record, key, value))), "smoke")


# --------------------------------------------------------------------------------- foreign code
def attack(record, evil, name):
    key, value = TAKEN[name]
    if isinstance(value, str):
        value = value.replace("FOLDER", str(evil.parent))
    return renamed(changed(record, key, value))


@pytest.mark.parametrize("name", TAKEN)
def test_a_config_that_would_run_foreign_code_is_refused(name, record, evil, tmp_path):
    refused(save(tmp_path, attack(record, evil, name)))
    assert "evil" not in sys.modules
    assert not evil.exists()


@pytest.mark.parametrize("name", TAKEN)
def test_unchecked_it_would_run(name, record, evil):
    config = attack(record, evil, name)["config"]
    config["trainer"] |= {"enable_progress_bar": False}
    config["trainer"].setdefault("logger", False)
    try:
        build(config)
    except (ArgumentError, MisconfigurationException, AttributeError, TypeError):
        pass
    assert evil.exists()


def never(*args, **kwargs):
    raise AssertionError("this must not run")


@pytest.mark.parametrize("name", CLASSES, ids=repr)
@pytest.mark.parametrize("place", ["model", "data", "nested", "in a list"])
def test_a_class_outside_the_house_is_refused(place, name, record, tmp_path, monkeypatch):
    for called in ("subprocess.Popen", "torch.hub.load", "torch.load", "os.system"):
        monkeypatch.setattr(called, never)
    node = {"class_path": name, "init_args": {}}
    where = {
        "model": ("config.model.class_path", name),
        "data": ("config.data.class_path", name),
        "nested": (NET, node),
        "in a list": ("config.trainer.callbacks", [MLP, {"a": [node]}]),
    }
    refused(save(tmp_path, renamed(changed(record, *where[place]))))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config.model.class_path", "datamodules.MixtureData"),
        ("config.model.class_path", "torch.nn.Linear"),
        ("config.data.class_path", "lightning_modules.NeuralEntropy"),
        (NET, {**MLP, "dict_kwargs": {}}),
        (NET, {**MLP, "__path__": "x"}),
        (NET, {"lightning_modules.MLP": 1}),
        ("config.model.init_args.a b", 1),
        ("config.model.init_args.process", "a.b"),
        ("config.model.init_args.process", "../vp"),
        ("config.model.init_args.process", "~"),
        ("config.model.init_args.process", "-"),
        ("config.model.init_args.process", "$HOME"),
        ("config.model.init_args.process", "hub:a/b"),
        ("config.model.init_args.source", "hub:a/b"),
        ("config.data.init_args.mixture", "hub:a/b"),
        ("config.data.init_args.source", "hub:../b"),
        ("config.data.init_args.source", "hub:/a/b"),
        ("config.data.init_args.source", "hub:a/b/c"),
        ("config.data.init_args.root", "elsewhere"),
        ("config.trainer.default_root_dir", "elsewhere"),
        ("config.trainer.callbacks", [{"init_args": {"dirpath": "elsewhere"}}]),
        ("config.marks.updates", "12"),
        ("config.marks.updates", [1.5]),
        ("config.trainer.max_steps", None),
        ("config.model.init_args", []),
        ("config.ckpt_path", "x"),
        ("config.seed_everything", "evil"),
        ("config", []),
        ("config", None),
    ],
    ids=repr,
)
def test_what_no_config_of_the_suite_holds_is_refused(key, value, record, tmp_path):
    refused(save(tmp_path, renamed(changed(record, key, value))))
