"""The cluster launcher over submitit's local executor: the same code as on Slurm, one machine."""

import json
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import tiny

from reproduce import cluster, launchers
from reproduce.__main__ import main
from reproduce.errors import RequestError
from reproduce.records import Store

LRS = (1e-3, 2e-3, 3e-3)


@pytest.fixture
def local_cluster(tmp_path, monkeypatch):
    """``run --launcher slurm`` with submitit's local executor in Slurm's place."""
    slurm = cluster.run_cluster
    monkeypatch.setattr(cluster, "run_cluster", lambda *a: slurm(*a, cluster="local"))
    for key, value in tiny.environment().items():
        monkeypatch.setenv(key, value)

    def run(*args, folder="r"):
        return main(["run", "tiny", "--results", str(tmp_path / folder), *args])

    return run


def slow_cells(monkeypatch, lrs=LRS, updates=1500):
    """Register a target whose training takes seconds."""
    cheap = {
        **tiny.CHEAP,
        "trainer.max_steps": updates,
        "marks.updates": [8],
        "checkpoint.every": 8,
    }
    monkeypatch.setattr(tiny, "CHEAP", cheap)
    tiny.register(monkeypatch, tiny.target(lrs=lrs))


def tasks() -> dict[int, str]:
    """Process numbers of submitit's tasks (not of their controllers) and their job's number."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (folder / "cmdline").read_text().split("\0")
            if "submitit.core._submit" in line:
                environment = (folder / "environ").read_text().split("\0")
                mine = [v for v in environment if v.startswith("PYTEST_CURRENT_TEST=")]
                if mine == [f"PYTEST_CURRENT_TEST={os.environ['PYTEST_CURRENT_TEST']}"]:
                    found[int(folder.name)] = line[-2]
    return found


def when(condition, then, seconds=60.0) -> threading.Thread:
    """Do something in a thread as soon as something is true."""

    def watch():
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := condition():
                return then(found)
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@pytest.mark.slow
def test_cells_that_run_as_tasks_give_the_tables_of_a_local_run(
    local_cluster, tmp_path, monkeypatch, capsys
):
    tiny.register(monkeypatch, tiny.target(lrs=(1e-3, 1e30), evaluators=(tiny.NORM, tiny.TRACE)))
    assert local_cluster("--launcher", "slurm", "--jobs", "2") == 1
    out, error = capsys.readouterr()
    assert "2 of 2 cells to run" in out
    assert "Traceback" not in out + error
    assert launchers.run_local is tiny.in_process
    assert local_cluster(folder="local") == 1
    assert tiny.tables(tmp_path / "r") == tiny.tables(tmp_path / "local")
    ours, theirs = (tiny.records(tmp_path / name) for name in ("r", "local"))
    assert {n: tiny.numbers(r) for n, r in ours.items()} == {
        n: tiny.numbers(r) for n, r in theirs.items()
    }


@linux
@pytest.mark.slow
def test_a_task_that_is_killed_is_submitted_again_and_resumes(
    local_cluster, tmp_path, monkeypatch, capsys
):
    slow_cells(monkeypatch, lrs=LRS[:1])
    kill = when(
        lambda: list((tmp_path / "r").rglob("last.ckpt")) and tasks(),
        lambda found: [os.kill(pid, signal.SIGKILL) for pid in found],
    )
    assert local_cluster("--launcher", "slurm") == 0
    kill.join()
    assert "another one resumes it" in capsys.readouterr().out
    assert local_cluster(folder="local") == 0
    assert tiny.tables(tmp_path / "r") == tiny.tables(tmp_path / "local")


@linux
@pytest.mark.slow
def test_a_warned_task_saves_and_is_requeued_by_submitit(
    local_cluster, tmp_path, monkeypatch, capsys
):
    slow_cells(monkeypatch, lrs=LRS[:1])
    steps = []

    def warn(found):
        for pid in found:
            os.kill(pid, signal.SIGUSR2)
        gone = lambda: not set(found) & set(tasks())  # noqa: E731
        when(gone, lambda _: steps.append(saved(tmp_path))).join()

    warned = when(lambda: list((tmp_path / "r").rglob("last.ckpt")) and tasks(), warn)
    assert local_cluster("--launcher", "slurm") == 0
    warned.join()
    assert steps, "the task was not warned in time"
    assert steps[0] % 100, "it was saved at once, not with the next regular checkpoint"
    assert "resumes" not in capsys.readouterr().out  # we did not submit it again: submitit did
    (log,) = (tmp_path / "r").rglob("*_log.out")
    assert "Requeued job" in log.read_text()
    assert local_cluster(folder="local") == 0
    assert tiny.tables(tmp_path / "r") == tiny.tables(tmp_path / "local")


def saved(folder: Path) -> int:
    import torch

    (checkpoint,) = folder.rglob("last.ckpt")
    return torch.load(checkpoint, weights_only=True)["global_step"]


def test_a_task_that_never_answers_is_a_recorded_failure(
    local_cluster, tmp_path, monkeypatch, capsys
):
    tiny.register(monkeypatch, tiny.target(lrs=LRS[:1]))
    monkeypatch.setattr(cluster.Task, "__call__", lambda self: os._exit(3))
    # pickled by value, so that the task's process gets the pretence too
    import cloudpickle

    cloudpickle.register_pickle_by_value(cluster)
    try:
        assert local_cluster("--launcher", "slurm") == 1
    finally:
        cloudpickle.unregister_pickle_by_value(cluster)
    (record,) = tiny.records(tmp_path / "r").values()
    assert record["status"] == "failed"
    assert "3 times" in record["error"]
    assert capsys.readouterr().out.count("another one resumes it") == 2


def test_without_slurm_it_is_one_line(tmp_path, monkeypatch, capsys):
    tiny.register(monkeypatch, tiny.target())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["run", "tiny", "--launcher", "slurm", "--results", str(tmp_path / "r")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "sbatch" in error
    assert not tiny.records(tmp_path / "r")


@pytest.mark.parametrize("option", ["partition", "=gpu", ""])
def test_an_option_that_is_no_pair_is_refused(option):
    with pytest.raises(RequestError, match="key=value"):
        cluster._parse([option])


def test_options_and_resources_reach_sbatch(tmp_path, monkeypatch):
    """The script that submitit writes, without a Slurm to take it."""
    import submitit

    texts = []
    monkeypatch.setattr(submitit.SlurmExecutor, "affinity", classmethod(lambda cls: 2))
    executor = submitit.SlurmExecutor(tmp_path / "small" / "runs" / "cluster")
    monkeypatch.setattr(
        submitit.SlurmExecutor,
        "_submit_command",
        lambda self, command: (
            texts.append(self._make_submission_file_text(command, "u"))
            or submitit.SlurmJob(self.folder, "12", [0])
        ),
    )
    options = cluster._parse(["partition=long", "time=600", "licenses=a:1"])
    target = tiny.target(lrs=LRS)
    jobs, _ = launchers.plan([target], "smoke", None, Store(tmp_path, "smoke"))
    two = [j for j in jobs]
    for job in two:
        job.cell.config["trainer"]["devices"] = 2
    cluster._submit(two, executor, options, at_once=2)
    (text,) = texts
    for line in (
        "--array=0-2%2",
        "--partition=long",
        "--time=600",
        "--licenses=a:1",
        "--ntasks-per-node=1",
        "--cpus-per-task=2",
        "--nodes=1",
        "--signal=USR2@90",
        "--requeue",
        "--open-mode=append",
    ):
        assert f"#SBATCH {line}" in text, line
    assert "srun --unbuffered" in text
    assert "--cpus-per-task=2 " in text.split("\nsrun")[1]  # which srun does not inherit
    for job in two:
        job.cell.config["trainer"] |= {"num_nodes": 3, "accelerator": "gpu"}
    cluster._submit(two, executor, {}, at_once=None)
    for line in ("--nodes=3", "--ntasks-per-node=2", "--gpus-per-node=2"):
        assert f"#SBATCH {line}" in texts[1], line


def test_cells_that_ask_for_other_machines_are_other_arrays():
    jobs, _ = launchers.plan([tiny.target(lrs=LRS)], "smoke", None, Store("nowhere", "smoke"))
    assert [len(g) for g in cluster._alike(jobs)] == [3]
    jobs[1].cell.config["trainer"]["devices"] = 2
    assert sorted(len(g) for g in cluster._alike(jobs)) == [1, 2]
    assert json.loads(jobs[0].line(Path("x")))["results"] == "x"
