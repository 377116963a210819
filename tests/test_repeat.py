"""Repeat: targets drawn by a seed, made again into an empty folder, compared with what stands."""

import dataclasses
import json

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import tiny

from reproduce import papers
from reproduce.__main__ import main
from reproduce.errors import RequestError
from reproduce.records import Store
from reproduce.repeat import compare, draw

TIMED = dataclasses.replace(
    tiny.target("timed", lrs=(1e-3,)), metrics={"norm": "", "sum": "s"}
)  # its sum passes for seconds
OTHER = tiny.target("other", lrs=(3e-3,))
ELSEWHERE = tiny.target("elsewhere", lrs=(1e-3,), paper="eiw-flow")


def run(*args) -> int:
    return main([*map(str, args)])


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Results in which two of three targets are complete."""
    tiny.register(monkeypatch, TIMED, OTHER, tiny.target("missing", lrs=(5e-3,)))
    monkeypatch.setattr("reproduce.figures.save", lambda figure, path, source: plt.close(figure))
    assert run("run", "timed", "other", "--results", tmp_path / "results") == 0
    return tmp_path / "results"


def change(results, evaluator, **values) -> None:
    """Every record of the folder gets these numbers."""
    for path in (results / "smoke" / "records").glob("*/*.json"):
        record = json.loads(path.read_text())
        record["metrics"][evaluator.key] |= values
        for name, value in values.items():
            curve = record["curves"][evaluator.key]
            curve[name] = [value] * len(curve["updates"])
        path.write_text(json.dumps(record))


def test_only_complete_targets_are_drawn_and_a_seed_draws_the_same(published):
    store = Store(published, "smoke")
    drawn = [[t.id for t in draw("smoke", store, seed)] for seed in range(20)]
    assert {name for (name,) in drawn} == {"timed", "other"}
    assert drawn == [[t.id for t in draw("smoke", store, seed)] for seed in range(20)]


def test_a_target_of_each_paper_is_drawn(monkeypatch, tmp_path):
    tiny.register(monkeypatch, OTHER, TIMED)
    monkeypatch.setattr(papers, "targets", lambda: {t.id: t for t in (OTHER, TIMED, ELSEWHERE)})
    monkeypatch.setattr("reproduce.repeat.observe", lambda target, tier, store: target)
    prices = {"other": 30.0, "timed": 90.0, "elsewhere": 50.0}
    monkeypatch.setattr("reproduce.repeat._price", lambda target: prices[target.id])
    store = Store(tmp_path, "smoke")
    both = {tuple(t.id for t in draw("smoke", store, seed)) for seed in range(20)}
    assert both == {("other", "elsewhere"), ("timed", "elsewhere")}
    short = {tuple(t.id for t in draw("smoke", store, seed, minutes=1)) for seed in range(20)}
    assert short == {("other", "elsewhere")}
    with pytest.raises(RequestError, match=r"no target of less than 0.1 min is complete"):
        draw("smoke", store, 0, minutes=0.1)


def asking_for(name, published) -> tuple:
    """A request whose seed draws this target."""
    seed = next(s for s in range(99) if draw("smoke", Store(published, "smoke"), s)[0].id == name)
    into = published.parent / "again"
    return "repeat", "--seed", seed, "--results", published, "--into", into


def test_what_is_made_again_agrees_and_a_second_call_goes_on(published, capsys):
    request = asking_for("other", published)
    assert run(*request) == 0
    said = capsys.readouterr().out
    assert "1 of 1 verdicts the same" in said
    assert "6 of 6 numbers within the published intervals (6 equal to nine digits)" in said
    assert run(*request) == 0
    assert "all 1 cells are done" in capsys.readouterr().out
    table = pd.read_csv(published / "repeat" / "smoke.csv")
    assert table["again"].notna().all()
    assert "**agrees**" in (published / "repeat" / "smoke.md").read_text()


def test_another_number_differs_and_another_time_does_not(published, capsys):
    request = asking_for("timed", published)
    assert run(*request) == 0
    change(published, tiny.NORM, sum=1e3)
    assert run(*request) == 0
    change(published, tiny.NORM, norm=1e3)
    assert run(*request) == 1
    assert "0 of 3 numbers within" in capsys.readouterr().out
    assert "**differs**" in (published / "repeat" / "smoke.md").read_text()


def test_another_verdict_differs(published, tmp_path):
    again = tmp_path / "again"
    assert run("run", "timed", "--results", again) == 0
    assert compare(TIMED, "smoke", Store(published, "smoke"), Store(again, "smoke")).same
    change(published, tiny.NORM, norm=-1.0)
    change(again, tiny.NORM, norm=1.0)
    found = compare(TIMED, "smoke", Store(published, "smoke"), Store(again, "smoke"))
    (claim,) = found.table[found.table["kind"] == "claim"].itertuples()
    assert (claim.verdict, claim.again_verdict, claim.same) == (
        "contradicted",
        "reproduced",
        False,
    )
    assert not found.same


def test_an_unfinished_repeat_is_not_compared(published, tmp_path):
    store = Store(published, "smoke")
    with pytest.raises(RequestError, match=r"timed is not complete at tier smoke in .*again"):
        compare(TIMED, "smoke", store, Store(tmp_path / "again", "smoke"))


@pytest.mark.parametrize(
    ("seed", "said"), [(3, "is not empty"), (4, "holds another draw")], ids=["foreign", "drawn"]
)
def test_a_folder_of_something_else_is_refused(published, tmp_path, capsys, seed, said):
    again = tmp_path / "again"
    again.mkdir()
    note = {"seed": 3, "tier": "smoke", "minutes": "inf", "targets": ["timed"]}
    (again / ("drawn.json" if seed == 4 else "mine.txt")).write_text(json.dumps(note))
    before = sorted(p.name for p in again.iterdir())
    assert run("repeat", "--seed", seed, "--results", published, "--into", again) == 2
    assert said in capsys.readouterr().err
    assert sorted(p.name for p in again.iterdir()) == before
