"""Kill it, damage it, start it twice: nothing is lost, no cell runs twice, tables stay equal."""

import json
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
import tiny
import torch

from reproduce.__main__ import main
from reproduce.cells import expand
from reproduce.records import Store

RUN = ("run", "ne-epochs", "--tier", "smoke")
CELLS = 3


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return tiny.finished_run(tmp_path_factory)


@pytest.fixture
def started(tmp_path):
    """Start ``python -m reproduce`` on ``tmp_path/results``; none of them outlives the test."""
    running = []
    # a shell lets what it puts in the background ignore Ctrl-C, and its children inherit that
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def start(*args, name="log"):
        log = tmp_path / f"{name}-{len(running)}"
        running.append(tiny.start(*args, results=tmp_path / "results", log=log))
        running[-1].log = log
        return running[-1]

    yield start
    signal.signal(signal.SIGINT, before)
    for process in running:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(condition, process=None, seconds=120.0):
    """Wait for something true; fail if the process ends first."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        assert process is None or process.poll() is None, process.log.read_text()
        time.sleep(0.003)
    return found


def group(process) -> dict[int, str]:
    """The living processes of its group and their command lines."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            state, _, pgid = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(pgid) == process.pid and state not in "ZX":
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    return found


def workers(process) -> list[int]:
    return [pid for pid, line in group(process).items() if "reproduce.worker" in line]


def half_trained(results: Path, but: set[str] = frozenset()) -> list[Path]:
    """Folders of cells that have a checkpoint, and are not through."""
    checkpoints = (results / "smoke" / "runs").glob("*/last.ckpt")
    return [
        c.parent
        for c in checkpoints
        if not (c.parent / "weights-300.pt").exists() and c.parent.name not in but
    ]


def held_half_way(run, results: Path) -> Path:
    """Stop a run, all its processes, when it is in the middle of a cell; the cell's folder."""
    passed: set[str] = set()
    while True:
        folder = until(lambda: half_trained(results, but=passed), run)[0]
        os.killpg(run.pid, signal.SIGSTOP)  # now there is time to look
        if folder in half_trained(results):
            return folder
        passed.add(folder.name)
        os.killpg(run.pid, signal.SIGCONT)


def assert_same(results: Path, undisturbed: Path) -> None:
    """Tables byte for byte, and records in all but when and where."""
    assert tiny.tables(results) == tiny.tables(undisturbed)
    ours, theirs = tiny.records(results), tiny.records(undisturbed)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert tiny.numbers(ours[name]) == tiny.numbers(theirs[name])


def finish(process, code=0) -> str:
    assert process.wait(timeout=240) == code, process.log.read_text()
    said = process.log.read_text()
    assert "Traceback" not in said
    return said


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


# ------------------------------------------------------------------------------- interruptions
@linux
@pytest.mark.slow
def test_ctrl_c_then_kill_9_of_the_group_then_a_worker_then_it_completes(
    started, tmp_path, undisturbed
):
    results = tmp_path / "results"

    # Ctrl-C while a cell trains, held still so that a slow machine does not miss it
    run = started(*RUN, "--jobs", "1")
    held_half_way(run, results)
    alive = group(run)
    assert len(alive) >= 2
    os.killpg(run.pid, signal.SIGINT)
    os.killpg(run.pid, signal.SIGCONT)
    assert finish(run, 130).count("stopped") == 1
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in alive), seconds=10)

    # kill -9 of parent and worker at once, in the middle of another cell
    run = started(*RUN, "--jobs", "1")
    until(lambda: list(results.rglob("*.json")), run)  # the first is done
    folder = held_half_way(run, results)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    until(lambda: not group(run), seconds=10)
    step = torch.load(folder / "last.ckpt", weights_only=True)["global_step"]
    assert step in (100, 200)
    marks = {p: p.stat().st_mtime_ns for p in folder.glob("weights-*.pt")}
    marks = {p: t for p, t in marks.items() if int(p.stem.split("-")[1]) <= step}
    finished = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in results.rglob("*.json")}
    assert 1 <= len(finished) < CELLS

    # what was half done goes on and what was done stays; this time a worker dies
    run = started(*RUN, "--jobs", "1")
    until(lambda: (folder / "weights-300.pt").exists(), run)
    for worker in workers(run):
        os.kill(worker, signal.SIGKILL)
    said = finish(run)
    assert f"{CELLS - len(finished)} of {CELLS} cells to run" in said
    assert "worker was killed by signal 9; another one resumes" in said
    for path, (when, what) in finished.items():
        assert (path.stat().st_mtime_ns, path.read_bytes()) == (when, what)
    for path, when in marks.items():
        assert path.stat().st_mtime_ns == when  # the marks before the kill were not made again
    assert (results / "smoke" / "report.html").exists()
    assert_same(results, undisturbed)


@linux
@pytest.mark.slow
def test_two_runs_at_once_share_the_work(started, tmp_path, undisturbed):
    results = tmp_path / "results"
    runs = [started(*RUN, "--jobs", "1", name=name) for name in "ab"]
    made: set[tuple[str, int]] = set()  # every version of a record or of a cell's first mark
    while any(run.poll() is None for run in runs):
        for path in (*results.rglob("*.json"), *results.rglob("weights-50.pt")):
            with suppress(FileNotFoundError):
                made.add((str(path), path.stat().st_mtime_ns))
        time.sleep(0.005)
    told = "".join(finish(run) for run in runs)
    assert told.count("report:") == 2
    assert_same(results, undisturbed)
    log = (results / "smoke" / "runs" / "workers.log").read_text()
    assert "Traceback" not in log
    assert len(made) == 2 * CELLS, "a cell ran twice"
    # and a third finds all of it done
    before = {p: p.stat().st_mtime_ns for p in results.rglob("*.json")}
    assert "all 3 cells are done" in finish(started(*RUN))
    assert {p: p.stat().st_mtime_ns for p in results.rglob("*.json")} == before


# ---------------------------------------------------------------- half-trained cells, in process
class Killed(BaseException):
    """What no handler of the engine may catch."""


@pytest.fixture
def half(tmp_path, monkeypatch):
    """A cell that was killed at update 9 of 12, its last checkpoint at 8."""
    from lightning_modules.callbacks import LossTrace

    target = tiny.target(lrs=(1e-3,))
    tiny.register(monkeypatch, target)
    whole = LossTrace.on_train_batch_end

    def stop(self, trainer, *args):
        whole(self, trainer, *args)
        if trainer.global_step == 9:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(LossTrace, "on_train_batch_end", stop)
        with pytest.raises(Killed):
            main(["run", "tiny", "--results", str(tmp_path)])
    (cell,) = expand(target, "smoke")
    folder = Store(tmp_path, "smoke").run_dir(cell)
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 8
    assert not list(tmp_path.rglob("*.json"))
    return folder


@pytest.fixture
def trained(monkeypatch):
    """The updates that are made from now on."""
    from lightning_modules.callbacks import LossTrace

    updates, whole = [], LossTrace.on_train_batch_end

    def count(self, trainer, *args):
        updates.append(trainer.global_step)
        whole(self, trainer, *args)

    monkeypatch.setattr(LossTrace, "on_train_batch_end", count)
    return updates


def undisturbed_tiny(tmp_path) -> dict:
    assert main(["run", "tiny", "--results", str(tmp_path / "other")]) == 0
    (record,) = tiny.records(tmp_path / "other").values()
    return tiny.numbers(record)


def test_a_half_trained_cell_goes_on_exactly_where_it_was(half, tmp_path, trained):
    assert main(["run", "tiny", "--results", str(tmp_path)]) == 0
    assert trained == [9, 10, 11, 12]
    (record,) = tiny.records(tmp_path).values()
    assert tiny.numbers(record) == undisturbed_tiny(tmp_path)


DAMAGE = {
    "truncated": lambda raw: raw[: len(raw) // 2],
    "empty": lambda raw: b"",
    "garbage": lambda raw: b"no checkpoint at all",
    "flipped": lambda raw: raw[:9000] + bytes(b ^ 255 for b in raw[9000:12000]) + raw[12000:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_reported_and_training_starts_again(
    half, tmp_path, trained, capsys, damage
):
    checkpoint = half / "last.ckpt"
    checkpoint.write_bytes(DAMAGE[damage](checkpoint.read_bytes()))
    assert main(["run", "tiny", "--results", str(tmp_path)]) == 0
    assert "last.ckpt is unreadable: set aside" in capsys.readouterr().out
    assert trained == list(range(1, 13))
    (record,) = tiny.records(tmp_path).values()
    assert tiny.numbers(record) == undisturbed_tiny(tmp_path)


def test_a_kill_in_the_middle_of_a_save_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    """As when the temporary folder is another file system, from which moves are copies."""
    tiny.register(monkeypatch, tiny.target(lrs=(1e-3,)))
    whole, moves = shutil.move, []

    def half_a_move(source, goal):
        moves.append(goal)
        if len(moves) < 2:
            return whole(source, goal)
        raw = Path(source).read_bytes()
        Path(goal).write_bytes(raw[: len(raw) // 2])
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "move", half_a_move)
        with pytest.raises(Killed):
            main(["run", "tiny", "--results", str(tmp_path)])
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 4
    assert main(["run", "tiny", "--results", str(tmp_path)]) == 0


def test_a_checkpoint_of_something_else_is_not_trusted(half, tmp_path, trained):
    torch.save({"weights": torch.zeros(3)}, half / "last.ckpt")
    assert main(["run", "tiny", "--results", str(tmp_path)]) == 0
    assert trained == list(range(1, 13))


def test_a_checkpoint_beyond_a_lost_mark_is_not_trusted(half, tmp_path, trained):
    (half / "weights-4.pt").unlink()
    assert main(["run", "tiny", "--results", str(tmp_path)]) == 0
    assert trained == list(range(1, 13))
    (record,) = tiny.records(tmp_path).values()
    assert tiny.numbers(record) == undisturbed_tiny(tmp_path)


# ------------------------------------------------------------------------------------- failures
def test_a_loss_that_is_no_number_is_a_recorded_failure(tmp_path, monkeypatch, capsys):
    lrs = (1e-3, 1e30, 2e-3)
    tiny.register(monkeypatch, tiny.target(lrs=lrs))
    assert main(["run", "tiny", "--results", str(tmp_path)]) == 1
    out, error = capsys.readouterr()
    assert "Traceback" not in out + error
    assert "Diverged: the loss is" in out
    bad = [r for r in tiny.records(tmp_path).values() if r["status"] == "failed"]
    assert len(bad) == 1
    assert bad[0]["config"]["model"]["init_args"]["lr"] == 1e30
    assert bad[0]["error"].startswith("Diverged: the loss is ")
    assert "model.init_args.lr" in bad[0]["error"]
    assert sum(r["status"] == "done" for r in tiny.records(tmp_path).values()) == 2
    rows = tiny.tables(tmp_path)["tiny.cells.csv"].decode().splitlines()
    failed = [row for row in rows if ",failed," in row]
    assert len(failed) == 1
    assert "Diverged" in failed[0]
    # what is there is judged, but nothing is "reproduced" while a cell lacks
    assert b"reproduced" not in tiny.tables(tmp_path)["claims.csv"]
    assert main(["status", "tiny", "--results", str(tmp_path)]) == 0
    assert "2 done, 1 failed" in capsys.readouterr().out

    # it is tried again, the others are not
    before = {p.stem: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json")}
    assert main(["run", "tiny", "--results", str(tmp_path)]) == 1
    assert "1 of 3 cells to run" in capsys.readouterr().out
    after = {p.stem: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json")}
    assert {name for name in after if after[name] != before[name]} == {bad[0]["cell"]}
    # and no weights that are no numbers were left to go on from
    for path in tmp_path.rglob("last.ckpt"):
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(v.isfinite().all() for v in state.values())


def test_a_measure_that_is_no_number_is_a_failure_and_no_gap(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "norm", lambda model, data: {"norm": float("nan"), "sum": 1.0})
    tiny.register(monkeypatch, tiny.target(lrs=(1e-3,)))
    assert main(["run", "tiny", "--results", str(tmp_path)]) == 1
    (record,) = tiny.records(tmp_path).values()
    assert record["status"] == "failed"
    assert "norm" in record["error"]


def test_when_every_cell_fails_there_is_still_a_report(tmp_path, monkeypatch):
    target = tiny.target(lrs=(1e30, 1e29))
    tiny.register(monkeypatch, target)
    assert main(["run", "tiny", "--results", str(tmp_path)]) == 1
    assert json.dumps([r["status"] for r in tiny.records(tmp_path).values()]).count("failed") == 2
    assert (tmp_path / "smoke" / "report.html").exists()
    assert b"Diverged" in tiny.tables(tmp_path)["tiny.cells.csv"]
    shutil.rmtree(tmp_path / "smoke" / "runs")
    assert main(["report", "tiny", "--results", str(tmp_path)]) == 0
