"""The forecast of a run, from made-up records: numbers by hand."""

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import tiny

from reproduce import forecast as module
from reproduce.cells import expand
from reproduce.errors import RequestError
from reproduce.forecast import Costs, forecast, makespan
from reproduce.launchers import Job
from reproduce.records import Store, blank
from reproduce.target import Arm

PAPER = "neural-entropy"
UNTRAINED = {"trainer.max_steps": 0, "marks.updates": []}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results", "smoke")


@pytest.fixture(autouse=True)
def published(tmp_path, monkeypatch):
    """Where the checkout's own records would be."""
    monkeypatch.setattr(module, "PUBLISHED", tmp_path / "published")
    return Store(tmp_path / "published", "smoke")


def cells(lr=1e-3, seeds=1, **overrides):
    """Cells of a target, one a seed; they keep at updates 4, 8 and 12."""
    changes = {**tiny.CHEAP, "model.init_args.lr": lr, **overrides}
    return expand(tiny.target(arms=lambda tier: [Arm({}, changes)]), "smoke", seeds)


def done(store, cell, wall_s, params=1000, targets=("tiny",), **changes):
    made = {"status": "done", "wall_s": wall_s, "params": params, "packages": {}}
    rest = dict.fromkeys(("peak_mem_mb", "git_sha", "dirty", "utc"))
    store.write(cell, {**blank(cell, None, targets), **rest, **made, **changes})


def costs(store):
    return Costs("smoke", store, {PAPER})


def line(store, cells, total=45, n_workers=2):
    return forecast([Job(c, (), ("tiny",)) for c in cells], "smoke", store, total, n_workers)


# ------------------------------------------------------------------------------- cost of a cell
def test_cells_that_differ_in_the_seed_alone_price_one_another(store):
    first, second, third = cells(seeds=3)
    done(store, first, 10.0, params=7)
    done(store, second, 30.0, params=7)
    done(store, *cells(lr=2e-3), 1000.0)
    cost = costs(store).of(third, ["tiny"])
    assert (cost.seconds, cost.params, cost.rough) == (20.0, 7.0, False)
    assert sorted(cost.records) == sorted([first.name, second.name])


def test_numbers_beyond_a_record_s_nine_digits_make_no_other_config(store):
    first, second = cells(lr=1 / 3, seeds=2)
    done(store, first, 10.0)
    assert not costs(store).of(second, ["tiny"]).rough


def test_else_other_cells_of_the_target_and_else_of_the_paper_price_it_roughly(store):
    (cell,) = cells()
    assert costs(store).of(cell, ["tiny"]) is None
    done(store, *cells(lr=2e-3), 500.0, targets=["another"])
    assert costs(store).of(cell, ["tiny"]).seconds == 500.0
    done(store, *cells(lr=3e-3), 60.0)
    done(store, *cells(lr=4e-3), 80.0, targets=["another", "tiny"])
    cost = costs(store).of(cell, ["tiny"])
    assert (cost.seconds, cost.rough, len(cost.records)) == (70.0, True, 2)
    # a job for two targets takes the cells of both, each once
    assert costs(store).of(cell, ["tiny", "another"]).seconds == pytest.approx(640 / 3)


@pytest.mark.parametrize("part", ["model", "data"])
def test_another_class_of_model_or_data_is_less_alike(store, part):
    (cell,), (other,) = cells(), cells(lr=2e-3)
    other.config[part]["class_path"] = "another.Class"
    done(store, other, 9.0)
    assert costs(store).of(cell, ["tiny"]).seconds == 9.0  # still of the paper
    done(store, *cells(lr=3e-3), 1.0, targets=["another"])
    assert costs(store).of(cell, ["tiny"]).seconds == 5.0  # none of its own kind


def test_a_cell_that_trains_is_not_priced_by_one_that_does_not(store):
    (untrained,) = cells(**UNTRAINED)
    done(store, untrained, 1.0)
    assert costs(store).of(*cells(), ["tiny"]) is None
    assert costs(store).of(untrained, ["tiny"]).seconds == 1.0


def test_a_cell_is_not_priced_by_another_network(store):
    (other,) = cells(lr=2e-3)
    other.config["model"]["init_args"]["net"]["class_path"] = "another.Net"
    done(store, other, 9.0)
    assert costs(store).of(*cells(), ["tiny"]) is None


def test_the_run_s_own_records_come_before_the_published_ones(store, published):
    first, second = cells(seeds=2)
    done(published, first, 99.0)
    assert costs(store).of(second, ["tiny"]).seconds == 99.0
    done(store, *cells(lr=2e-3), 5.0)  # the exact price, though from elsewhere, is the better
    assert costs(store).of(second, ["tiny"]).seconds == 99.0
    done(store, first, 10.0)
    assert costs(store).of(second, ["tiny"]).seconds == 10.0


def test_failed_and_damaged_records_and_other_tiers_price_nothing(store, tmp_path):
    first, second = cells(seeds=2)
    done(store, first, 10.0)
    path = store.path(first)
    whole = path.read_text()
    for damage in (
        whole[:200],
        "[]",
        whole.replace('"done"', '"failed"'),
        whole.replace('"wall_s": 10.0', '"wall_s": null'),
        whole.replace('"wall_s": 10.0', '"wall_s": NaN'),
        json.dumps(json.loads(whole) | {"config": ["model"]}),
        json.dumps(json.loads(whole) | {"config": {"trainer": {}}}),
    ):
        path.write_text(damage)
        assert costs(store).of(second, ["tiny"]) is None
    path.write_text(whole)
    assert costs(store).of(second, ["tiny"]).seconds == 10.0
    assert (
        Costs("small", Store(tmp_path / "results", "small"), {PAPER}).of(second, ["tiny"]) is None
    )
    assert Costs("smoke", store, {"another"}).of(second, ["tiny"]) is None


@pytest.mark.parametrize(
    ("seconds", "n_workers", "last"),
    [
        ([3, 5, 3, 4, 3], 2, 10),  # 5+3, 4+3+3: not 18 / 2
        ([3, 5, 3, 4, 3], 1, 18),
        ([1, 1, 10], 3, 10),
        ([2.5], 4, 2.5),
        ([], 2, 0),
    ],
)
def test_makespan_by_hand(seconds, n_workers, last):
    assert makespan(seconds, n_workers) == last


# ------------------------------------------------------------------------------------- the line
def test_the_line_by_hand(store):
    for cell, wall_s in zip(cells(seeds=3), (200.0, 300.0, 400.0), strict=True):
        done(store, cell, wall_s, params=500_000)
    jobs = cells(seeds=5)  # 300 s each, three on one worker; weights thrice, last.ckpt threefold
    assert line(store, jobs) == (
        "5 of 45 cells to run at tier smoke: about 15 min on 2 workers (from 3 records), "
        "60 MB of checkpoints"
    )
    assert line(store, [*jobs, *cells(lr=2e-3)], n_workers=9) == (
        "6 of 45 cells to run at tier smoke: about 5 min on 6 workers (from 3 records; rough for "
        "1, priced by other cells), 72 MB of checkpoints"
    )
    unknown = cells(**UNTRAINED)
    assert line(store, [*jobs[:1], *unknown], n_workers=1) == (
        "2 of 45 cells to run at tier smoke: about 5 min on 1 worker (from 3 records), 12 MB of "
        "checkpoints; 1 more without a recorded cost yet"
    )


def test_without_records_and_without_jobs(store):
    assert line(store, cells()) == "1 of 45 cells to run at tier smoke: no recorded cost yet"
    assert line(store, []) == "0 of 45 cells to run at tier smoke"


# ----------------------------------------------------------------------------------------- disk
def disk(store, cell):
    return line(store, [cell]).split("), ")[1]


def test_what_a_cell_stores_by_hand(store):
    cell, again = cells(seeds=2)
    done(store, cell, 1.0)
    # 1000 parameters of 4 bytes: weights at 4, 8 and 12; last.ckpt with weights and two moments
    assert disk(store, again) == "24 kB of checkpoints"
    folder = store.run_dir(again)
    folder.mkdir(parents=True)
    (folder / "weights-4.pt").write_bytes(bytes(4000))
    (folder / "last.ckpt").write_bytes(bytes(12_000))
    (folder / "log.txt").write_bytes(bytes(99_000))
    assert disk(store, again) == "8.0 kB of checkpoints"  # what is there is not to be written
    (folder / "last.ckpt").write_bytes(bytes(99_000))
    assert disk(store, again) == "0 kB of checkpoints"


def test_averages_are_stored_too_and_without_training_only_weights(store):
    cell, again = cells(seeds=2)
    for c in (cell, again):
        c.config["trainer"]["callbacks"] = [{"class_path": "lightning_modules.callbacks.EMA"}]
    done(store, cell, 1.0)
    assert disk(store, again) == "28 kB of checkpoints"
    cell, again = cells(seeds=2, **UNTRAINED)
    done(store, cell, 1.0)
    assert disk(store, again) == "4.0 kB of checkpoints"


def test_a_disk_without_room_is_told_before_the_run(store, monkeypatch):
    cell, again = cells(seeds=2)
    done(store, cell, 1.0)
    asked = []

    def usage(free):
        def answer(folder):
            asked.append(folder)
            return SimpleNamespace(free=free)

        monkeypatch.setattr(module.shutil, "disk_usage", answer)

    usage(24_000)
    assert disk(store, again) == "24 kB of checkpoints"
    usage(23_499)
    with pytest.raises(RequestError) as error:
        line(store, [again])
    said = str(error.value)
    assert "24 kB" in said
    assert "23 kB" in said
    assert "--results" in said
    assert "\n" not in said
    assert asked == [store.root] * 2


def test_a_results_folder_that_is_not_there_yet(store, published, monkeypatch, tmp_path):
    cell, again = cells(seeds=2)
    done(published, cell, 1.0)
    monkeypatch.chdir(tmp_path)
    assert "24 kB" in line(Store("new/results", "smoke"), [again])
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------------------------------- speed
def test_500_records_are_read_once_and_quickly(store, monkeypatch):
    (cell,) = cells()
    done(store, cell, 1.0, curves={"fit@1": {"loss": [0.123456789] * 500}})
    text = store.path(cell).read_text()
    for i in range(499):
        store.path(cell).with_stem(f"copy-{i}").write_text(text)
    seen, read = [], module.read_record
    monkeypatch.setattr(module, "read_record", lambda path: seen.append(path) or read(path))
    jobs = [c for i in range(100) for c in cells(lr=1e-3 * (i + 1), seeds=5)]
    begun = time.process_time()
    said = line(store, jobs)
    took = time.process_time() - begun
    assert "from 500 records; rough for 495" in said
    assert len(seen) == len(set(seen)) == 500
    assert took < 1.0  # 0.2 s on a machine that has time


def test_nothing_heavy_is_imported():
    code = "import reproduce.forecast, reproduce.estimate, sys; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tiny.ROOT, capture_output=True, text=True, check=True
    )
    assert not {"torch", "lightning", "pandas", "numpy", "rich"} & set(out.stdout.split())


def test_a_bar_shows_seconds_where_all_are_known_and_shares_where_not(store):
    known, like_it = cells(seeds=2)
    (unknown,) = cells(**UNTRAINED)
    done(store, known, 20.0)
    jobs = [Job(c, (), ("tiny",)) for c in (like_it, unknown)]
    assert module.durations(jobs[:1], "smoke", store) == {like_it.name: 20.0}
    assert module.durations(jobs, "smoke", store) == {like_it.name: 4.0, unknown.name: 1.0}
