"""``--set`` and ``--label``: a user's own variant, apart from what is published."""

import json

import pytest
import tiny

from reproduce.__main__ import main

RUN = ("run", "tiny", "--label", "hot")


@pytest.fixture
def run(tmp_path, monkeypatch):
    tiny.register(monkeypatch, tiny.target())
    return lambda *args: main([*args, "--results", str(tmp_path)])


def variant(tmp_path):
    return tmp_path / "variants" / "hot"


def test_a_variant_has_its_own_cells_and_leaves_the_published_alone(run, tmp_path, capsys):
    assert run("run", "tiny") == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert run(*RUN, "--set", "model.init_args.draws=2") == 0
    assert {p: p.read_bytes() for p in before} == before
    ours, theirs = tiny.records(variant(tmp_path)), tiny.records(tmp_path)
    assert len(ours) == len(theirs) == 2
    assert not ours.keys() & theirs.keys()
    for record in ours.values():
        assert record["config"]["model"]["init_args"]["draws"] == 2
    assert {r["config"]["model"]["init_args"]["draws"] for r in theirs.values()} == {4}
    assert tiny.tables(variant(tmp_path)).keys() == tiny.tables(tmp_path).keys()
    # the label alone tells what it means
    capsys.readouterr()
    assert run("status", "tiny", "--label", "hot") == 0
    assert "2 cells: 2 done" in capsys.readouterr().out
    assert run("report", "tiny", "--label", "hot") == 0
    assert run(*RUN) == 0
    assert "all 2 cells are done" in capsys.readouterr().out
    # and where no label is given nothing has changed
    assert run("status", "tiny") == 0
    assert "2 cells: 2 done\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--set", "model.init_args.draws=2"), "--label"),
        (RUN[2:], "say what it changes"),
        ((*RUN[2:], "--set", "model.init_args.drawz=2"), "unknown config key"),
        ((*RUN[2:], "--set", "trainer.max_stepz=2"), "unknown config key"),
        ((*RUN[2:], "--set", "model.init_args.draws"), "key=value"),
        ((*RUN[2:], "--set", "model.init_args.draws=[2"), "no YAML"),
        ((*RUN[2:], "--set", "model.init_args.lr=0.1"), "arms of tiny"),
        (("--label", "../x", "--set", "model.init_args.draws=2"), "letters"),
        (("--label", "", "--set", "model.init_args.draws=2"), "--label"),
    ],
)
def test_a_wrong_variant_is_one_line_and_leaves_nothing(run, tmp_path, capsys, options, says):
    assert run("run", "tiny", *options) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_printing_what_would_run_remembers_nothing(run, tmp_path, capsys):
    assert run(*RUN, "--set", "model.init_args.draws=2", "--print") == 0
    said = capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert run(*RUN, "--set", "model.init_args.draws=2") == 0
    assert all(name in said for name in tiny.records(variant(tmp_path)))


def test_a_label_never_means_two_things(run, tmp_path, capsys):
    assert run(*RUN, "--set", "model.init_args.draws=2") == 0
    capsys.readouterr()
    assert run(*RUN, "--set", "model.init_args.draws=3") == 2
    assert "--label hot means --set model.init_args.draws=2" in capsys.readouterr().err
    assert run(*RUN, "--set", "model.init_args.draws=2") == 0  # the same again is no other thing
    (variant(tmp_path) / "variant.json").write_text("{")
    assert run("status", "tiny", "--label", "hot") == 2
    assert "damaged" in capsys.readouterr().err
    assert run("status", "tiny", "--label", "cold") == 2
    assert "no variant 'cold'" in capsys.readouterr().err


def test_values_are_yaml_and_exponents_numbers(run, tmp_path):
    changes = ["model.init_args.weighting=ml", "model.init_args.net.init_args.widths=[8, 4]"]
    options = [word for change in changes for word in ("--set", change)]
    assert run(*RUN, *options) == 0
    written = json.loads((variant(tmp_path) / "variant.json").read_text())["set"]
    assert written == {
        "model.init_args.weighting": "ml",
        "model.init_args.net.init_args.widths": [8, 4],
    }
    from reproduce.variants import parse

    assert parse(["a=1e-3", "b=-2.5E4", "c=null", "d=x=y"]) == {
        "a": 1e-3, "b": -2.5e4, "c": None, "d": "x=y",
    }  # fmt: skip
