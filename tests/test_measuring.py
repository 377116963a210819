"""What is measured where: evaluators by tier, data and mark; sidecars; rows from several cells."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import tiny

from reproduce.__main__ import main
from reproduce.cells import expand
from reproduce.papers import targets
from reproduce.records import SIDECAR_BYTES, Store, read_arrays
from reproduce.tables import Observed, summary_table
from reproduce.target import TIERS, Evaluator

TILES = Evaluator("tiles", 1, "test_measuring:tiles", marks="last")


def tiles(model, data):
    return {"mean": 2.0, "picture": np.arange(16, dtype=np.uint8).reshape(4, 4)}


def too_many(model, data):
    return {"picture": np.random.default_rng(0).integers(0, 256, 2 * SIDECAR_BYTES, np.uint8)}


def doubled(rows: pd.DataFrame, tier: str) -> pd.DataFrame:
    """A row for all cells together."""
    norms = rows[rows["metric"] == "norm"]
    one = norms.iloc[-1].to_dict() | {"metric": tier, "value": norms["value"].sum(), "cell": ""}
    return pd.DataFrame([one])


def run(monkeypatch, tmp_path, target) -> dict:
    tiny.register(monkeypatch, target)
    assert main(["run", target.id, "--results", str(tmp_path)]) == 0
    (record,) = tiny.records(tmp_path).values()
    return record


def test_the_last_mark_only(monkeypatch, tmp_path):
    target = tiny.target(lrs=(1e-3,), evaluators=(tiny.NORM, TILES))
    record = run(monkeypatch, tmp_path, target)
    assert record["curves"][tiny.NORM.key]["updates"] == [4, 8, 12]
    assert record["curves"][TILES.key] == {"updates": [12], "mean": [2.0]}
    assert record["metrics"][TILES.key] == {"mean": 2.0}


def test_arrays_go_to_the_sidecar_and_reach_the_figure(monkeypatch, tmp_path):
    target = tiny.target(lrs=(1e-3,), evaluators=(tiny.NORM, TILES))
    seen = []
    monkeypatch.setattr(tiny, "draw", lambda s, records: seen.extend(records) or _empty())
    record = run(monkeypatch, tmp_path, target)
    path = tmp_path / "smoke" / "records" / "neural-entropy" / f"{record['cell']}.npz"
    np.testing.assert_array_equal(read_arrays(path)["tiles.picture"].ravel(), np.arange(16))
    assert "arrays" not in record
    np.testing.assert_array_equal(seen[-1]["arrays"]["tiles.picture"].ravel(), np.arange(16))


def _empty():
    from reproduce.figures import figure

    return figure()[0]


def test_a_sidecar_keeps_what_other_evaluators_put_there(tmp_path):
    (cell,) = expand(tiny.target(lrs=(1e-3,)), "smoke")
    store = Store(tmp_path, "smoke")
    store.write_arrays(cell, {"a.x": np.zeros(3, np.uint8)})
    store.write_arrays(cell, {"b.x": np.ones(3, np.uint8)})
    assert sorted(read_arrays(store.path(cell).with_suffix(".npz"))) == ["a.x", "b.x"]
    store.path(cell).with_suffix(".npz").write_bytes(b"PK damaged")
    assert read_arrays(store.path(cell).with_suffix(".npz")) == {}


def test_too_large_a_sidecar_is_a_failed_cell(monkeypatch, tmp_path):
    large = Evaluator("large", 1, "test_measuring:too_many", marks="last")
    target = tiny.target(lrs=(1e-3,), evaluators=(tiny.NORM, large))
    tiny.register(monkeypatch, target)
    assert main(["run", target.id, "--results", str(tmp_path)]) == 1
    (record,) = tiny.records(tmp_path).values()
    assert record["status"] == "failed"
    assert "store fewer tiles" in record["error"]


@pytest.mark.parametrize(
    ("changes", "measured"),
    [
        ({}, True),
        ({"tiers": ("small",)}, False),
        ({"tiers": ("smoke",)}, True),
        ({"data": "MixtureData"}, True),
        ({"data": "StoredImages"}, False),
    ],
)
def test_evaluators_have_tiers_and_data(changes, measured):
    evaluator = dataclasses.replace(tiny.NORM, **changes)
    target = tiny.target(evaluators=(evaluator,))
    (cell, *_) = expand(target, "smoke")
    assert target.measured(cell) == ((evaluator,) if measured else ())


def test_an_evaluator_that_does_not_concern_a_cell_is_not_missed(monkeypatch, tmp_path):
    other = Evaluator("other", 1, "nowhere:at_all", data="StoredImages")
    target = tiny.target(lrs=(1e-3,), evaluators=(tiny.NORM, other))
    assert run(monkeypatch, tmp_path, target)["status"] == "done"


def test_rows_are_derived_from_all_cells(monkeypatch, tmp_path):
    target = tiny.target(derive="test_measuring:doubled", metrics={"norm": "", "smoke": "nats"})
    tiny.register(monkeypatch, target)
    assert main(["run", target.id, "--results", str(tmp_path)]) == 0
    norms = [r["curves"][tiny.NORM.key]["norm"] for r in tiny.records(tmp_path).values()]
    table = pd.read_csv(tmp_path / "smoke" / "tiny.csv")
    (row,) = table[table["metric"] == "smoke"].itertuples()
    assert row.mean == pytest.approx(np.sum(norms), rel=1e-8)
    assert row.unit == "nats"


@pytest.mark.parametrize("tier", TIERS)
def test_in_one_record_a_key_means_one_measure(tier):
    """Targets that share a cell agree on what its evaluators are and when they measure."""
    meant: dict[tuple[str, str], Evaluator] = {}
    for target in targets().values():
        for cell in expand(target, tier, 1):
            for evaluator in target.measured(cell):
                assert meant.setdefault((cell.name, evaluator.key), evaluator) == evaluator


def test_an_arm_may_want_fewer_seeds():
    plain = tiny.target()
    target = dataclasses.replace(
        plain, arms=lambda tier: [dataclasses.replace(a, seeds=1) for a in plain.arms(tier)[:1]]
        + plain.arms(tier)[1:]
    )  # fmt: skip
    assert [(c.axes["lr"], c.seed) for c in expand(target, "smoke", 3)] == [
        (1e-3, 1), (2e-3, 1), (2e-3, 7), (2e-3, 17),
    ]  # fmt: skip


@pytest.mark.parametrize("tier", TIERS)
def test_every_cell_is_measured_and_named_once(tier):
    for target in targets().values():
        cells = expand(target, tier, 1)
        assert all(target.measured(cell) for cell in cells)
        axes = [json.dumps(cell.axes, sort_keys=True) for cell in cells]
        assert len(set(axes)) == len(axes) == len({cell.name for cell in cells})


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ((260.0, 261.0, 262.0), "reproduced"),  # paper: 261 +- 3.6, interval 261 +- 2.5
        ((238.0, 239.0, 240.0), "contradicted"),
        ((240.0, 259.0, 280.0), "undecided"),
        ((258.0, 259.0), ""),
    ],
)
def test_at_full_size_every_printed_point_is_judged(values, note):
    target = tiny.target(
        metrics={"S_tot": "nats"}, printed={"S_tot": "transport-figure/S_tot"}, index=""
    )
    rows = pd.DataFrame(
        {"process": "vpx", "mixture": "D3", "seed": range(len(values)), "metric": "S_tot",
         "value": values, "cell": "c"}
    )  # fmt: skip
    cells = rows[["process", "mixture", "seed", "cell"]].assign(status="done")
    seen = Observed(target, "paper", ("process", "mixture"), rows, cells, ())
    (row,) = summary_table(seen).to_dict("records")
    assert (row["paper"], row["note"]) == (261.0, note)
    below = dataclasses.replace(seen, tier="small")
    assert summary_table(below)["note"].tolist() == ["not comparable"]
