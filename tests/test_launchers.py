"""Local workers: deaths of all kinds end in a finished run or in one recorded failure.

The workers are real processes that speak the real protocol; only the cell is a pretence.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
import tiny

from reproduce import launchers
from reproduce.__main__ import main
from reproduce.cells import expand

MODULES = str(tiny.ROOT / "lightning_modules")

# A worker whose runner pretends: it writes a record and does what the file `orders` says first.
WORKER = """
import json, os, sys, time, types
from pathlib import Path
from reproduce.provenance import provenance
from reproduce.records import blank

here = Path({here!r})
orders = json.loads((here / "orders").read_text())

def run_cell(cell, evaluators, targets, store, send):
    with store.lock(cell):
        old = store.read(cell)
        if old is not None and old["status"] == "done":
            return "done"
        number = len(list(here.glob(f"try-{{cell.name}}-*")))
        (here / f"try-{{cell.name}}-{{number}}").write_text(str(os.getpid()))
        lr = str(cell.config["model"]["init_args"]["lr"])
        for order in orders.get(lr, [])[number : number + 1]:
            if order == "babble":
                os.write({protocol}, b'{{"note": "half a li')
                os._exit(3)
            if order == "exit":
                os._exit(7)
            if order == "die":
                os.kill(os.getpid(), 9)
            if order == "raise":
                raise TypeError("not an OSError")
            if order == "full":
                raise OSError(28, "No space left on device")
            if order == "fail":
                return "failed"
            time.sleep(float(order))
        record = blank(cell, None, targets)
        for e in evaluators:
            record["metrics"][e.key] = {{"norm": 1.0}}
            record["curves"][e.key] = {{"updates": [12], "norm": [1.0]}}
        record["metrics"]["fit@1"] = record["curves"]["fit@1"] = {{}}
        store.write(cell, record | {{"status": "done"}} | provenance("cpu"))
    return "done"

sys.modules["reproduce.runner"] = types.SimpleNamespace(run_cell=run_cell)
package = types.ModuleType("lightning_modules")  # without the seconds of its imports
package.__path__ = [{modules!r}]
sys.modules["lightning_modules"] = package
sys.modules["torch"] = types.SimpleNamespace(set_num_threads=lambda n: None)
if orders.get("start"):
    how = orders["start"].pop(0)
    (here / "orders").write_text(json.dumps(orders))
    os._exit(how) if how > 0 else os.kill(os.getpid(), -how)
import reproduce.worker
reproduce.worker.main()
"""


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """Run a target whose cells (by learning rate) do as they are told; return the exit code."""

    def go(orders, lrs=(0.1, 0.2, 0.3), jobs=1):
        target = tiny.target(lrs=lrs)
        local = launchers.run_local
        tiny.register(monkeypatch, target)
        monkeypatch.setattr(launchers, "run_local", local)
        (tmp_path / "orders").write_text(json.dumps(orders))
        script = tmp_path / "worker.py"
        # the protocol goes to a copy of stdout: the first free number
        script.write_text(WORKER.format(here=str(tmp_path), protocol=3, modules=MODULES))
        popen = lambda _, **kw: subprocess.Popen(  # noqa: E731
            [sys.executable, str(script)], **{**kw, "env": tiny.environment()}
        )
        monkeypatch.setattr(launchers, "subprocess", SimpleNamespace(Popen=popen, PIPE=-1))
        return main(["run", "tiny", "--jobs", str(jobs), "--results", str(tmp_path / "r")])

    return go


def tries(tmp_path, lr) -> list[int]:
    name = expand(tiny.target(lrs=(lr,)), "smoke")[0].name
    found = sorted(tmp_path.glob(f"try-{name}-*"), key=lambda p: int(p.name.rsplit("-")[-1]))
    return [int(p.read_text()) for p in found]


def statuses(tmp_path) -> dict[float, str]:
    found = tiny.records(tmp_path / "r").values()
    return {r["config"]["model"]["init_args"]["lr"]: r["status"] for r in found}


@pytest.mark.parametrize("how", ["die", "exit", "babble", "raise"])
def test_a_cell_whose_worker_dies_goes_to_another(pretend, tmp_path, capsys, how):
    assert pretend({"0.2": [how]}) == 0
    assert statuses(tmp_path) == {0.1: "done", 0.2: "done", 0.3: "done"}
    first, second = tries(tmp_path, 0.2)
    assert first != second
    assert [len(tries(tmp_path, lr)) for lr in (0.1, 0.3)] == [1, 1]
    assert "another one resumes" in capsys.readouterr().out


def test_a_cell_that_kills_two_workers_is_a_recorded_failure(pretend, tmp_path, capsys):
    assert pretend({"0.2": ["die"] * 9}) == 1
    assert statuses(tmp_path) == {0.1: "done", 0.2: "failed", 0.3: "done"}
    assert len(tries(tmp_path, 0.2)) == 2
    (bad,) = [r for r in tiny.records(tmp_path / "r").values() if r["status"] == "failed"]
    assert "killed by signal 9 twice" in bad["error"]
    assert bad["targets"] == ["tiny"]
    assert "failed" in capsys.readouterr().out
    # the next run tries it again, and only it
    assert pretend({}) == 0
    assert [len(tries(tmp_path, lr)) for lr in (0.1, 0.2, 0.3)] == [1, 3, 1]


@pytest.mark.parametrize("how", ["fail", "full"])
def test_a_failed_cell_does_not_stop_the_others(pretend, tmp_path, capsys, how):
    assert pretend({"0.1": [how]}) == 1
    assert statuses(tmp_path) == {0.2: "done", 0.3: "done"}
    out, error = capsys.readouterr()
    assert "Traceback" not in out + error
    assert ("No space left" in out) == (how == "full")


def test_an_idle_worker_may_die(pretend, tmp_path):
    """With the long cell still running, the other worker's death concerns nobody."""

    def kill_the_idle_one():
        end = time.monotonic() + 60
        while time.monotonic() < end:
            quick = tries(tmp_path, 0.2)
            if quick and "done" in statuses(tmp_path).values():
                time.sleep(0.3)  # its answer is read
                os.kill(quick[0], signal.SIGKILL)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=kill_the_idle_one)
    thread.start()
    try:
        assert pretend({"0.1": ["2.5"]}, lrs=(0.1, 0.2), jobs=2) == 0
    finally:
        thread.join()
    assert statuses(tmp_path) == {0.1: "done", 0.2: "done"}
    assert len(tries(tmp_path, 0.1)) == 1


def test_a_worker_killed_while_it_starts_is_replaced(pretend, tmp_path):
    assert pretend({"start": [-9]}) == 0
    assert set(statuses(tmp_path).values()) == {"done"}


def test_workers_that_cannot_start_are_told_in_one_line(pretend, tmp_path, capsys):
    assert pretend({"start": [5] * 50}, jobs=2) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "workers.log" in error
    assert not tiny.records(tmp_path / "r")


def test_a_cell_that_another_run_has_is_waited_for(pretend, tmp_path, capsys):
    from reproduce.records import Store

    store = Store(tmp_path / "r", "smoke")
    (cell,) = expand(tiny.target(lrs=(0.2,)), "smoke")
    lock = store.lock(cell)
    lock.__enter__()
    threading.Timer(2.5, lambda: lock.__exit__(None, None, None)).start()
    began = time.monotonic()
    assert pretend({}) == 0
    assert time.monotonic() - began > 2
    assert statuses(tmp_path) == {0.1: "done", 0.2: "done", 0.3: "done"}
    assert len(tries(tmp_path, 0.2)) == 1


@pytest.mark.parametrize("busy", [False, True])
def test_a_worker_dies_with_its_parent_and_lets_go_of_its_cell(tmp_path, busy):
    from reproduce.launchers import Job
    from reproduce.records import Store

    (tmp_path / "orders").write_text(json.dumps({"0.1": ["120"]}))
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(here=str(tmp_path), protocol=3, modules=MODULES))
    target = tiny.target(lrs=(0.1,))
    (cell,) = expand(target, "smoke")
    with tiny.speaker(script) as worker:
        assert "ready" in json.loads(worker.stdout.readline())
        if busy:
            print(Job(cell, (tiny.NORM,), ("tiny",)).line(tmp_path), file=worker.stdin, flush=True)
            while not tries(tmp_path, 0.1):
                time.sleep(0.01)
        worker.stdin.close()
        assert worker.wait(timeout=20) == 0
    with Store(tmp_path, "smoke").lock(cell):
        pass


@pytest.mark.parametrize("jobs", [1, 2, 3, 50])
def test_no_more_workers_than_cells_and_each_cell_once(pretend, tmp_path, jobs):
    assert pretend({}, jobs=jobs) == 0
    pids = [tries(tmp_path, lr) for lr in (0.1, 0.2, 0.3)]
    assert [len(p) for p in pids] == [1, 1, 1]
    assert len({p[0] for p in pids}) <= min(jobs, 3)
    for (pid,) in pids:  # and none of them is left
        with suppress(ProcessLookupError):
            os.kill(pid, 0)
            pytest.fail("a worker is alive")
