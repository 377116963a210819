"""The rig itself: two nodes that run, die, come back, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import slurm_rig
from slurm import slurm_cluster, slurm_session  # noqa: F401

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
SCRIPT = Path(slurm_rig.__file__)
HELLO = 'echo "$(hostname) $SLURMD_NODENAME restarts=${SLURM_RESTART_COUNT:-0}"'


@pytest.fixture
def sbatch(slurm_cluster, tmp_path):  # noqa: F811
    """Submit a shell script; the id of its job. Its output goes to ``tmp_path/JOB_TASK``."""

    def submit(script: str, *options: str) -> str:
        (tmp_path / "script.sh").write_text(f"#!/bin/bash\n{script}\n")
        out = "--output=%A_%a" if any("--array" in o for o in options) else "--output=%j"
        command = ("sbatch", "--parsable", out, "--open-mode=append", *options, "script.sh")
        return slurm_cluster.run(*command, cwd=tmp_path)

    return submit


def until(condition, seconds=90.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)
    return found


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def processes(word: str) -> set[int]:
    """The processes with a word in their environment or their arguments."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            said = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
            if word.encode() in said:
                found.add(int(folder.name))
    return found - {os.getpid()}


def test_an_array_runs_on_both_nodes(slurm_cluster, sbatch, tmp_path):  # noqa: F811
    job = sbatch(f"{HELLO}; sleep 1; srun hostname", "--array=0-3")
    tasks = [f"{job}_{i}" for i in range(4)]
    until(lambda: all(slurm_cluster.squeue()[t] == "COMPLETED" for t in tasks))
    told = [text(tmp_path / t).split() for t in tasks]
    assert {words[0] for words in told} == {"n1", "n2"}
    for hostname, node, restarts, step in told:
        assert hostname == node == step
        assert restarts == "restarts=0"


def test_a_signal_reaches_the_batch_script_before_the_time_limit(sbatch, tmp_path):
    """Slurm sends it up to a minute early: with a limit of one minute, soon after the start."""
    script = "trap 'echo got USR2; exit' USR2; echo up; for i in {1..900}; do sleep 0.1; done"
    job = sbatch(script, "--time=1", "--signal=B:USR2@50")
    until(lambda: "got USR2" in text(tmp_path / job))


def test_scancel_sends_a_signal_to_a_step_and_with_batch_to_the_script(
    slurm_cluster,  # noqa: F811
    sbatch,
    tmp_path,
):
    trap = "trap 'echo step got it; exit' USR2; echo up; for i in {1..900}; do sleep 0.1; done"
    job = sbatch(f"trap 'echo script got it' USR2\nsrun bash -c \"{trap}\" & wait; wait")
    until(lambda: "up" in text(tmp_path / job))
    slurm_cluster.run("scancel", "--signal=USR2", "--batch", job)
    until(lambda: "script got it" in text(tmp_path / job))
    assert "step got it" not in text(tmp_path / job)
    slurm_cluster.run("scancel", "--signal=USR2", job)
    until(lambda: "step got it" in text(tmp_path / job))
    until(lambda: slurm_cluster.squeue()[job] == "COMPLETED")


def test_a_requeued_task_starts_again_and_knows_it(slurm_cluster, sbatch, tmp_path):  # noqa: F811
    job = sbatch(f"{HELLO}; [[ $SLURM_RESTART_COUNT ]] || sleep 900", "--array=0-1")
    until(lambda: "n" in text(tmp_path / f"{job}_1"))
    slurm_cluster.run("scontrol", "requeue", f"{job}_1")
    until(lambda: slurm_cluster.squeue()[f"{job}_1"] == "COMPLETED")
    words = text(tmp_path / f"{job}_1").split()
    assert [w for w in words if "restarts" in w] == ["restarts=0", "restarts=1"]
    assert slurm_cluster.job(f"{job}_1")["Restarts"] == "1"
    assert slurm_cluster.squeue()[f"{job}_0"] == "RUNNING"


def test_a_dead_nodes_task_finishes_on_the_other(slurm_cluster, sbatch, tmp_path):  # noqa: F811
    # a process that leaves its session: the node's death takes that one too
    script = f"setsid sleep 4321 & {HELLO}; [[ $SLURM_RESTART_COUNT ]] || sleep 900"
    job = sbatch(script, "--array=0-1", f"--comment={tmp_path}")
    until(lambda: all("n" in text(tmp_path / f"{job}_{i}") for i in (0, 1)))
    on_n2 = next(t for t in (f"{job}_0", f"{job}_1") if text(tmp_path / t).startswith("n2"))
    other = f"{job}_{1 - int(on_n2[-1])}"
    assert len(processes("SLURMD_NODENAME=n2\0")) >= 3
    began = time.monotonic()
    slurm_cluster.kill_node("n2")
    assert not processes("SLURMD_NODENAME=n2\0")
    assert processes("SLURMD_NODENAME=n1\0")
    until(lambda: slurm_cluster.nodes()["n2"].startswith("down"))
    assert time.monotonic() - began < 30
    assert slurm_cluster.squeue()[on_n2] == "PENDING"
    slurm_cluster.run("scancel", other)  # n1 is free
    until(lambda: slurm_cluster.squeue()[on_n2] == "COMPLETED")
    assert [line.split()[1:] for line in text(tmp_path / on_n2).splitlines()] == [
        ["n2", "restarts=0"],
        ["n1", "restarts=1"],
    ]
    slurm_cluster.resume_node("n2")
    job = sbatch(HELLO, "--nodelist=n2")
    until(lambda: slurm_cluster.squeue()[job] == "COMPLETED")
    assert text(tmp_path / job).split()[0] == "n2"


def test_without_requeue_a_dead_node_fails_its_job(slurm_cluster, sbatch, tmp_path):  # noqa: F811
    job = sbatch(f"{HELLO}; sleep 900", "--no-requeue", "--nodelist=n1")
    until(lambda: "n1" in text(tmp_path / job))
    slurm_cluster.kill_node("n1")
    until(lambda: slurm_cluster.squeue()[job] == "NODE_FAIL")


def rig(*args, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *map(str, args)]
    options = {"capture_output": True, "text": True, "timeout": 120} | options
    return subprocess.run(command, check=False, **options)


@pytest.fixture
def by_hand(slurm_session, tmp_path):  # noqa: F811  (which skips where there is no Slurm)
    folder = tmp_path / "rig"
    yield folder
    rig("stop", folder)


def test_by_hand(by_hand):
    started = rig("start", by_hand, "MinJobAge=7")
    assert started.returncode == 0, started.stderr
    assert started.stdout == f"export SLURM_CONF={by_hand}/slurm.conf\n"
    cluster = slurm_rig.Cluster(by_hand)
    assert cluster.nodes() == {"n1": "idle", "n2": "idle"}
    assert "MinJobAge               = 7 sec" in cluster.run("scontrol", "show", "config")
    listening = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
    ports = [w.split("=")[1] for w in cluster.conf.read_text().split() if "Port=" in w]
    assert len(ports) == 3
    assert all(f"127.0.0.1:{port} " in listening for port in ports)
    again = rig("start", by_hand)
    assert (again.returncode, again.stdout) == (1, "")
    assert "already" in again.stderr
    cluster.run("sbatch", "--wrap", "sleep 4321", f"--chdir={by_hand}")
    until(lambda: "RUNNING" in cluster.squeue().values())
    assert rig("kill-node", by_hand, "n3").returncode == 1
    assert rig("kill-node", by_hand, "n2").returncode == 0
    assert rig("resume-node", by_hand, "n2").returncode == 0
    assert rig("stop", by_hand).returncode == 0
    assert not processes(str(by_hand))
    assert rig("stop", by_hand).returncode == 0


def test_half_a_start_is_stopped(by_hand):
    command = [sys.executable, str(SCRIPT), "start", str(by_hand)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as start:
        until(lambda: len(slurm_rig.Cluster(by_hand)._holders()) > 0)
        start.send_signal(signal.SIGKILL)
    assert processes(str(by_hand))
    assert rig("stop", by_hand).returncode == 0
    assert not processes(str(by_hand))


def test_a_start_that_fails_shows_the_logs_and_leaves_nothing(by_hand):
    failed = rig("start", by_hand, "SelectType=select/nonsense")
    assert failed.returncode == 1
    assert "nonsense" in failed.stderr
    assert not processes(str(by_hand))


def test_the_daemons_die_with_a_leashed_parent(by_hand):
    code = "import sys, os, signal, slurm_rig; slurm_rig.Cluster(sys.argv[1], leash=True).start();"
    code += "os.kill(os.getpid(), signal.SIGKILL)"
    command = [sys.executable, "-c", code, str(by_hand)]
    assert subprocess.run(command, cwd=SCRIPT.parent, check=False).returncode == -signal.SIGKILL
    until(lambda: not processes(str(by_hand)), seconds=10)


def test_without_slurm_the_packages_are_named(monkeypatch, capsys):
    monkeypatch.setattr(slurm_rig.shutil, "which", lambda name, **_: None)
    reason = slurm_rig.missing()
    assert "apt-get install" in reason
    assert "slurmctld slurmd slurm-client" in reason
    assert "\n" not in reason
    assert slurm_rig.main(["stop", "anywhere"]) == 77
    assert capsys.readouterr().err == f"{reason}\n"
