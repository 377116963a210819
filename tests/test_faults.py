"""Full and read-only disks, clocks that go back, lost weights, SIGTERM, and files that attack.

After each, what is published is whole and right, and the same command completes.
"""

import json
import os
import pickle
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import tiny
import torch
from test_engine_faults import (  # noqa: F401
    assert_same,
    finish,
    group,
    half,
    started,
    trained,
    until,
)

from reproduce.__main__ import main
from reproduce.cells import expand
from reproduce.records import Store

LRS = (1e-3, 2e-3, 3e-3)


def whole_records(results: Path) -> dict[str, dict]:
    """Every record by name; each must be whole JSON."""
    return {n: tiny.numbers(r) for n, r in tiny.records(results).items()}


# ----------------------------------------------------------------------------------------- disks
@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few hundred kB of its own; ``resize(kB)`` makes it larger."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", str(folder)]
        return subprocess.run(command, capture_output=True, check=False)

    if shutil.which("mount") is None or mount("size=300k").returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder, lambda *options: mount("remount", *options).check_returncode()
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk_is_told_and_the_run_completes_when_there_is_room(
    small_disk, tmp_path, monkeypatch, capsys
):
    disk, remount = small_disk
    tiny.register(monkeypatch, tiny.target(lrs=LRS))
    monkeypatch.setattr("reproduce.running.forecast", lambda *a: "no forecast")
    assert main(["run", "tiny", "--results", str(disk / "r")]) in (1, 2)
    out, error = capsys.readouterr()
    assert "Traceback" not in out + error
    assert "No space left" in out + error
    before = whole_records(disk / "r")
    assert len(before) < len(LRS)
    remount("size=20m")
    assert main(["run", "tiny", "--results", str(disk / "r")]) == 0
    assert main(["run", "tiny", "--results", str(tmp_path / "other")]) == 0
    assert tiny.tables(disk / "r") == tiny.tables(tmp_path / "other")
    assert whole_records(disk / "r") == whole_records(tmp_path / "other")
    assert before.items() <= whole_records(disk / "r").items()
    assert not list((disk / "r").rglob(".*.json.*")), "half-written files are left"


def test_a_forecast_that_does_not_fit_is_refused_before_the_first_cell(
    small_disk, tmp_path, monkeypatch, capsys
):
    disk, _ = small_disk
    tiny.register(monkeypatch, tiny.target(lrs=LRS))
    assert main(["run", "tiny", "--results", str(tmp_path / "r")]) == 0
    store = Store(disk / "r", "smoke")
    (cell, *_rest) = expand(tiny.target(lrs=LRS), "smoke")
    whole = json.loads(Store(tmp_path / "r", "smoke").path(cell).read_text())
    store.write(cell, whole)  # tells what the others will take
    capsys.readouterr()
    assert main(["run", "tiny", "--results", str(disk / "r")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "disk" in error or "space" in error
    assert len(tiny.records(disk / "r")) == 1


def test_read_only_results_are_told_in_one_line_and_nothing_is_lost(
    small_disk, monkeypatch, capsys
):
    disk, remount = small_disk
    remount("size=20m")
    tiny.register(monkeypatch, tiny.target(lrs=LRS[:2]))
    assert main(["run", "tiny", "--results", str(disk / "r"), "--seeds", "1"]) == 0
    before, tables = whole_records(disk / "r"), tiny.tables(disk / "r")
    capsys.readouterr()
    remount("ro")
    for command in ("run", "report", "tables"):
        assert main([command, "tiny", "--results", str(disk / "r")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "cannot write" in error
        assert "--results" in error
    assert main(["status", "tiny", "--results", str(disk / "r")]) == 0  # looking still works
    remount("rw")
    assert main(["run", "tiny", "--results", str(disk / "r")]) == 0
    assert (whole_records(disk / "r"), tiny.tables(disk / "r")) == (before, tables)


# ---------------------------------------------------------------------------------- time, weights
def test_a_clock_that_is_set_back_changes_nothing(half, tmp_path, trained, monkeypatch):  # noqa: F811
    """Files from the future, and a present that is earlier than they are."""
    tiny.register(monkeypatch, tiny.target(lrs=LRS[:2]))
    future = time.time() + 400 * 24 * 3600
    for path in tmp_path.rglob("*"):
        os.utime(path, (future, future))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 1e8)
    assert main(["run", "tiny", "--results", str(tmp_path)]) == 0
    assert trained == [9, 10, 11, 12, *range(1, 13)]  # the half-trained cell went on where it was
    for path in tmp_path.rglob("*"):
        os.utime(path, (future, future))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.json")}
    assert main(["run", "tiny", "--results", str(tmp_path)]) == 0
    assert len(trained) == 16, "nothing is older than anything, so nothing runs again"
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.json")} == before


@pytest.mark.parametrize("lost", ["weights-4.pt", "weights-12.pt"])
def test_a_missing_weights_file_is_trained_again_for_a_new_evaluator(
    lost, tmp_path, monkeypatch, capsys
):
    tiny.register(monkeypatch, tiny.target(lrs=LRS[:1]))
    assert main(["run", "tiny", "--results", str(tmp_path)]) == 0
    (path,) = tmp_path.rglob(lost)
    path.unlink()
    both = tiny.target(lrs=LRS[:1], evaluators=(tiny.NORM, tiny.TRACE))
    tiny.register(monkeypatch, both)
    assert main(["run", "tiny", "--results", str(tmp_path)]) == 0
    assert "Traceback" not in capsys.readouterr().out
    assert path.exists()
    assert main(["run", "tiny", "--results", str(tmp_path / "other")]) == 0
    assert whole_records(tmp_path) == whole_records(tmp_path / "other")


# ---------------------------------------------------------------------------------------- SIGTERM
@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return tiny.finished_run(tmp_path_factory)


@pytest.mark.slow
def test_sigterm_saves_and_says_what_is_left_and_then_the_parent_is_killed(
    started,  # noqa: F811
    tmp_path,
    undisturbed,
):
    results = tmp_path / "results"
    command = ("run", "ne-epochs", "--tier", "smoke", "--jobs", "1")
    run = started(*command)
    until(lambda: list(results.rglob("weights-50.pt")), run)
    run.terminate()  # the parent alone, as a batch system or `kill` does
    said = finish(run, 143)
    assert "stopped: 3 of 3 cells are left at tier smoke" in said
    assert "the same command goes on" in said
    (checkpoint,) = results.rglob("last.ckpt")
    step = torch.load(checkpoint, weights_only=True)["global_step"]
    assert 50 <= step < 300
    assert step % 100, "it was saved at once, not with the next regular checkpoint"
    assert not list(results.rglob("*.json"))

    run = started(*command)
    until(lambda: list(results.rglob("weights-300.pt")), run)
    alive = group(run)
    assert len(alive) >= 2
    run.kill()  # the parent alone again, without a word to its worker
    run.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in alive), seconds=20)
    for name in whole_records(results):
        assert whole_records(results)[name] == whole_records(undisturbed)[name]
    finish(started(*command))
    assert_same(results, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_fit_by_hand_saves_and_says_how_to_go_on(number, tmp_path):
    config = tiny.ROOT / "reproduce/neural_entropy/configs/neural_entropy.smoke.yaml"
    options = ["-c", str(config), "--trainer.max_steps", "100000", "--trainer.logger", "false"]
    options += ["--trainer.default_root_dir", str(tmp_path), "--checkpoint.every", "100000"]
    log = tmp_path / "log"
    with log.open("w") as file:
        fit = subprocess.Popen(
            [tiny.sys.executable, "-m", "reproduce.cli", "fit", *options],
            stdout=file,
            stderr=file,
            env=tiny.environment(),
        )
    try:
        end = time.monotonic() + 120
        while not (tmp_path / "weights-100.pt").exists():
            assert time.monotonic() < end
            assert fit.poll() is None, log.read_text()
            time.sleep(0.01)
        fit.send_signal(number)
        assert fit.wait(timeout=60) == 128 + number, log.read_text()
    finally:
        fit.kill()
        fit.wait()
    said = log.read_text()
    assert "Traceback" not in said
    step = torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"]
    assert f"stopped at update {step}: --ckpt_path" in said


# ---------------------------------------------------------------------------------------- attacks
class Attack:
    """Unpickled freely, it leaves a file."""

    def __init__(self, goal: Path) -> None:
        self.goal = goal

    def __reduce__(self):
        return Path.touch, (self.goal,)


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_a_checkpoint_that_would_run_code_is_set_aside_unread(
    half,  # noqa: F811
    tmp_path,
    trained,  # noqa: F811
    capsys,
    kind,
):
    goal = tmp_path / "was here"
    evil = {"global_step": 8, "pytorch-lightning_version": "2.6.6", "state_dict": Attack(goal)}
    checkpoint = half / "last.ckpt"
    if kind == "torch":
        torch.save(evil, checkpoint)
    else:
        checkpoint.write_bytes(pickle.dumps(evil))
    assert main(["run", "tiny", "--results", str(tmp_path)]) == 0
    assert "last.ckpt is unreadable: set aside" in capsys.readouterr().out
    assert trained == list(range(1, 13))
    assert not goal.exists()


@pytest.mark.parametrize("mark", ["weights-4.pt", "weights-12.pt"])
def test_weights_that_would_run_code_are_not_loaded(mark, tmp_path, monkeypatch):
    tiny.register(monkeypatch, tiny.target(lrs=LRS[:1]))
    assert main(["run", "tiny", "--results", str(tmp_path)]) == 0
    goal = tmp_path / "was here"
    (path,) = tmp_path.rglob(mark)
    torch.save(Attack(goal), path)
    tiny.register(monkeypatch, tiny.target(lrs=LRS[:1], evaluators=(tiny.NORM, tiny.TRACE)))
    assert main(["run", "tiny", "--results", str(tmp_path)]) == 0  # they are made again
    assert not goal.exists()
