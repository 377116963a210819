"""A real Slurm of two nodes: cells as one array, one node dies, the table is the same."""

import re
import threading
import time

import pytest
import tiny
from slurm import slurm_cluster, slurm_session  # noqa: F401
from test_cluster import slow_cells

from reproduce.__main__ import main

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(400)]
LRS = tuple(n * 1e-3 for n in range(1, 7))


@pytest.fixture
def run(slurm_cluster, tmp_path, monkeypatch):  # noqa: F811
    """``run tiny`` from a login node of the cluster."""
    for key, value in tiny.environment().items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("SLURM_CONF", str(slurm_cluster.conf))

    def go(*args, folder="r"):
        return main(["run", "tiny", "--results", str(tmp_path / folder), *args])

    return go


def hosts(folder) -> dict[str, list[str]]:
    """The nodes each task ran on, by the task's log."""
    logs = folder.rglob("*_log.out")
    return {p.name: re.findall(r"hostname=(n\d)", p.read_text()) for p in logs}


def test_an_array_on_two_nodes_of_which_one_dies(
    run,
    slurm_cluster,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    slow_cells(monkeypatch, lrs=LRS)
    killed = []

    def kill_a_node_at_work():
        end = time.monotonic() + 120
        while time.monotonic() < end and not killed:
            for log, where in hosts(tmp_path / "r").items():
                if where == ["n2"] and list((tmp_path / "r").rglob("last.ckpt")):
                    time.sleep(1.0)
                    slurm_cluster.kill_node("n2")
                    killed.append(log)
                    return
            time.sleep(0.05)

    thread = threading.Thread(target=kill_a_node_at_work)
    thread.start()
    code = run("--launcher", "slurm")
    thread.join()
    assert code == 0, slurm_cluster.logs()
    assert killed, "no cell ever ran on n2"
    ran = hosts(tmp_path / "r")
    assert {n for where in ran.values() for n in where} == {"n1", "n2"}
    assert len(ran) == len(LRS), "one array task a cell"
    assert "n1" in ran[killed[0]], "what died on n2 was finished on n1"
    assert "6/6 cells" in capsys.readouterr().out
    assert run(folder="local") == 0
    assert tiny.tables(tmp_path / "r") == tiny.tables(tmp_path / "local")


def test_a_requeued_task_resumes_and_a_new_run_takes_up_the_tasks_of_the_last(
    run,
    slurm_cluster,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    slow_cells(monkeypatch, lrs=LRS[:2])

    def interrupt():
        import _thread

        while len(list((tmp_path / "r").rglob("last.ckpt"))) < 1:
            time.sleep(0.05)
        (job,) = {k.split("_")[0] for k in slurm_cluster.squeue()}
        slurm_cluster.run("scontrol", "requeue", f"{job}_0")
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert run("--launcher", "slurm") == 130
    thread.join()
    said = capsys.readouterr()
    assert "2 tasks go on in the cluster (scancel" in said.out
    assert "cells are left" in said.err
    assert run("--launcher", "slurm") == 0
    assert "2 tasks of an earlier run go on" in capsys.readouterr().out
    assert sorted(len(where) for where in hosts(tmp_path / "r").values()) == [1, 2]
    assert run(folder="local") == 0
    assert tiny.tables(tmp_path / "r") == tiny.tables(tmp_path / "local")


def test_what_slurm_refuses_is_one_line(run, slurm_cluster, monkeypatch, capsys):  # noqa: F811
    slow_cells(monkeypatch, lrs=LRS[:2])
    assert run("--launcher", "slurm", "--slurm", "partition=nowhere") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "partition" in error


def test_a_cell_on_two_machines_is_the_cell_on_one(run, tmp_path, monkeypatch, capsys):
    """Both processes are Slurm's; the first tells the other what to do."""
    slow_cells(monkeypatch, lrs=LRS[:1], updates=40)
    assert run(folder="local") == 0
    two = ("--label", "two", "--set", "trainer.num_nodes=2", "--set", "trainer.strategy=ddp")
    assert run("--launcher", "slurm", *two) == 0, capsys.readouterr()
    (ours,) = tiny.records(tmp_path / "r" / "variants" / "two").values()
    (theirs,) = tiny.records(tmp_path / "local").values()
    assert ours["config"]["trainer"]["num_nodes"] == 2
    assert ours["status"] == "done"
    for key in ("norm", "sum"):
        assert ours["metrics"]["norm@1"][key] == pytest.approx(theirs["metrics"]["norm@1"][key])
    where = {n for w in hosts(tmp_path / "r").values() for n in w}
    assert where == {"n1", "n2"}
    assert run("--launcher", "slurm", *two) == 0
    assert "all 1 cells are done" in capsys.readouterr().out
