"""Everything a reader sees is a pure function of the records: rebuilt at will, byte for byte."""

import shutil
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import tiny
from PIL import Image

from reproduce import figures, launchers
from reproduce.__main__ import main
from reproduce.cells import expand

SEEN = {"ne-epochs.csv", "ne-epochs.cells.csv", "ne-epochs.png", "ne-epochs.svg", "claims.csv"}
SEEN |= {"report.html", "report.md"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tiny.finished_run(tmp_path_factory)


def files(results: Path, tier: str = "smoke") -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (results / tier).iterdir() if p.is_file()}


def records_only(finished: Path, results: Path) -> Path:
    """What a clone has: the records and nothing else."""
    shutil.copytree(finished / "smoke" / "records", results / "smoke" / "records")
    return results


def report(results: Path, *options: str) -> None:
    assert main(["report", "--tier", "smoke", "--results", str(results), *options]) == 0


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the report must not train")

    monkeypatch.setattr("reproduce.runner.run_cell", refuse)
    monkeypatch.setattr(launchers, "run_local", refuse)


# ------------------------------------------------------------------------------------ rebuilding
def test_everything_is_rebuilt_from_the_records(finished, tmp_path, no_training):
    results = records_only(finished, tmp_path / "clone")
    report(results)
    first = files(results)
    assert set(first) == SEEN
    for name in SEEN:
        if name.endswith(".csv"):
            assert first[name] == (finished / "smoke" / name).read_bytes()
    for name in ("ne-epochs.svg", "ne-epochs.png"):
        assert first[name] == (finished / "smoke" / name).read_bytes()
    assert first["ne-epochs.png"].startswith(b"\x89PNG")
    assert not (results / "smoke" / "runs").exists() or not any(
        (results / "smoke" / "runs").iterdir()
    )

    report(results)
    assert files(results) == first
    for name in SEEN:
        (results / "smoke" / name).unlink()
    report(results)
    assert files(results) == first


PUBLISHED = sorted(
    p.parent.name for p in tiny.ROOT.glob("results/*/records") if p.parent.name != "smoke"
)


@pytest.fixture
def sketches(monkeypatch):
    """Figures are composed but not rendered, which would take most of the time; what each is
    drawn from."""
    sources = {}

    def save(fig, path, source):
        path.with_suffix(".svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
        path.with_suffix(".png").touch()
        sources[path.stem] = source
        plt.close(fig)

    monkeypatch.setattr(figures, "save", save)
    return sources


@pytest.mark.parametrize("tier", PUBLISHED)
def test_the_committed_tables_and_figures_are_those_of_the_committed_records(
    tier, tmp_path, no_training, sketches
):
    """In a clone that has only the records: every file is back, the CSVs to the byte, and each
    figure names the numbers that it shows."""
    committed = tiny.ROOT / "results" / tier
    shutil.copytree(committed / "records", tmp_path / tier / "records")
    assert main(["report", "--tier", tier, "--results", str(tmp_path)]) == 0
    made, known = files(tmp_path, tier), files(tiny.ROOT / "results", tier)
    assert made.keys() == known.keys()
    for name in made:
        if name.endswith(".csv"):
            assert made[name] == known[name], name
    assert b"Stale records" not in made["report.md"]
    assert sketches
    for name, source in sketches.items():
        with Image.open(committed / f"{name}.png") as picture:
            assert picture.text.get("Source") == source, f"{name}.png is stale"
        assert source in (committed / f"{name}.svg").read_text(), f"{name}.svg is stale"


def test_tables_alone_are_the_same_tables(finished, tmp_path, no_training):
    results = records_only(finished, tmp_path)
    assert main(["tables", "--tier", "smoke", "--results", str(results)]) == 0
    assert set(files(results)) == {n for n in SEEN if n.endswith(".csv")}
    assert tiny.tables(results) == tiny.tables(finished)


def test_the_report_needs_no_network_and_shows_the_run(finished):
    links: list[str] = []

    class Page(HTMLParser):
        def handle_starttag(self, tag, attrs):
            links.extend(v or "" for k, v in attrs if k in ("src", "href", "srcset"))

    page = (finished / "smoke" / "report.html").read_text()
    Page().feed(page)
    assert links
    assert all(link.startswith(("data:", "#")) for link in links), links
    for words in ("ne-epochs", "3 of ", "reproduced", "not comparable", "same-total"):
        assert words in page


def test_a_table_does_not_depend_on_where_and_when(finished, tmp_path):
    text = "".join(p.read_text() for p in (finished / "smoke").glob("*.csv"))
    assert str(finished) not in text
    (record, *_) = tiny.records(finished).values()
    assert record["utc"] not in text
    assert "wall_s" not in text


def test_records_may_lack_in_any_way(finished, tmp_path, no_training):
    """A report is made of any subset of the records, and says how many there are."""
    names = sorted(tiny.records(finished))
    for i in range(2 ** len(names) - 1):
        results = records_only(finished, tmp_path / str(i))
        gone = [name for k, name in enumerate(names) if not i >> k & 1]
        for name in gone:
            (results / "smoke" / "records" / "neural-entropy" / f"{name}.json").unlink()
        report(results)
        text = (results / "smoke" / "report.md").read_text()
        assert f"{len(names) - len(gone)} of {len(names)} cells done" in text
        if i == 0:
            assert not (results / "smoke" / "ne-epochs.csv").exists()
            continue
        table = (results / "smoke" / "ne-epochs.cells.csv").read_text()
        for name in gone:
            (row,) = (line for line in table.splitlines() if line.startswith(name))
            assert ",missing," in row


def test_half_written_files_are_no_records(finished, tmp_path):
    results = records_only(finished, tmp_path)
    folder = results / "smoke" / "records" / "neural-entropy"
    (folder / f".{next(folder.glob('*.json')).name}.4711").write_text('{"half": ')
    (folder / "notes.txt").write_text("not a record")
    report(results)
    assert tiny.tables(results) == tiny.tables(finished)


# ------------------------------------------------------------------------------ seeds and orders
def run(results: Path, *options: str) -> None:
    assert main(["run", "tiny", "--results", str(results), *options]) == 0


def test_more_seeds_are_more_rows_of_evidence(tmp_path, monkeypatch):
    tiny.register(monkeypatch, tiny.target())
    run(tmp_path)
    one = pd.read_csv(tmp_path / "smoke" / "tiny.csv")
    run(tmp_path, "--seeds", "2")
    two = pd.read_csv(tmp_path / "smoke" / "tiny.csv")
    assert set(one["n"]) == {1}
    assert set(two["n"]) == {2}
    assert two["ci_low"].isna().all()  # two values have no interval
    assert one["sd"].isna().all()
    assert two["sd"].gt(0).all()
    assert {r["seed"] for r in tiny.records(tmp_path).values()} == {1, 7}
    run(tmp_path, "--seeds", "3")
    three = pd.read_csv(tmp_path / "smoke" / "tiny.csv")
    assert set(three["n"]) == {3}
    assert (three["ci_low"] < three["mean"]).all()
    # the seeds that a target asks for at least; those that are there all count
    tables = tiny.tables(tmp_path)
    run(tmp_path)
    assert tiny.tables(tmp_path) == tables
    cells = pd.read_csv(tmp_path / "smoke" / "tiny.cells.csv")
    for (lr, updates, metric), group in cells.groupby(["lr", "updates", "metric"]):
        row = three[(three.lr == lr) & (three.updates == updates) & (three.metric == metric)]
        assert row["mean"].item() == pytest.approx(group["value"].mean(), rel=1e-8)
        assert row["sd"].item() == pytest.approx(group["value"].std(), rel=1e-6)


def test_two_orders_of_cells_give_the_same_tables(tmp_path, monkeypatch):
    target = tiny.target(lrs=(1e-3, 2e-3, 3e-3), evaluators=(tiny.NORM, tiny.TRACE))
    tiny.register(monkeypatch, target)
    run(tmp_path / "a", "--seeds", "2")

    def backwards(jobs, *rest):
        return tiny.in_process(list(reversed(jobs)), *rest)

    monkeypatch.setattr(launchers, "run_local", backwards)
    run(tmp_path / "b", "--seeds", "2")
    assert tiny.tables(tmp_path / "a") == tiny.tables(tmp_path / "b")
    assert [tiny.numbers(r) for r in tiny.records(tmp_path / "a").values()] == [
        tiny.numbers(r) for r in tiny.records(tmp_path / "b").values()
    ]


def test_two_runs_of_one_cell_give_equal_metrics(tmp_path, monkeypatch):
    import torch

    tiny.register(monkeypatch, tiny.target(lrs=(1e-3,), evaluators=(tiny.NORM, tiny.TRACE)))
    run(tmp_path / "a")
    torch.manual_seed(99)  # what happened before in this process is of no matter
    torch.randn(17)
    run(tmp_path / "b")
    (a,), (b,) = (tiny.records(tmp_path / name).values() for name in "ab")
    assert tiny.numbers(a) == tiny.numbers(b)
    (weights_a,), (weights_b,) = (tmp_path.glob(f"{n}/smoke/runs/*/weights-12.pt") for n in "ab")
    a, b = torch.load(weights_a, weights_only=True), torch.load(weights_b, weights_only=True)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_two_seeds_give_two_models(tmp_path, monkeypatch):
    tiny.register(monkeypatch, tiny.target(lrs=(1e-3,)))
    run(tmp_path, "--seeds", "2")
    a, b = (r["metrics"] for r in tiny.records(tmp_path).values())
    assert a["norm@1"] != b["norm@1"]
    assert a["fit@1"] != b["fit@1"]


def test_names_of_cells_are_those_of_the_files(finished):
    from reproduce.neural_entropy.transport import EPOCHS

    assert set(tiny.records(finished)) == {c.name for c in expand(EPOCHS, "smoke")}
