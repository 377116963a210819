#!/usr/bin/env python3
"""A real two-node Slurm on one machine, for tests: no accounting, no munge, loopback only.

    slurm_rig.py start DIR [KEY=VALUE ...]   # prints `export SLURM_CONF=...`; KEYs of slurm.conf
    slurm_rig.py kill-node DIR n2            # the node dies: its slurmd and all that runs on it
    slurm_rig.py resume-node DIR n2
    slurm_rig.py stop DIR

Each daemon runs in namespaces of its own: an own hostname, and a process table whose end no
process outlives. Whatever the rig writes lies under DIR. Needs root. Exit code 77: it cannot run
here, and why.
"""

import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "sinfo", "scancel")
CONTROLLER, NODES = "ctl", ("n1", "n2")
USABLE = ("idle", "allocated", "mixed")

# The first process of a daemon's namespaces. It stays, since someone has to reap orphans there.
INIT = """
folder=$1 name=$2 conf=$3; shift 3
hostname "$name" && mount --bind "$folder/hosts" /etc/hosts || exit
"$@" -D -f "$conf" >>"$folder/$name.out" 2>&1 </dev/null
exit $?
"""

SETTINGS = {
    "ClusterName": "rig",
    "SlurmctldHost": f"{CONTROLLER}(127.0.0.1)",
    "SlurmUser": "root",
    "AuthType": "auth/none",
    "AuthInfo": "cred_expire=5",  # the least; also how long a requeued job waits (else 120 s)
    "CredType": "cred/none",
    "CommunicationParameters": "NoCtldInAddrAny,NoInAddrAny",  # bind to loopback, not to any
    "ProctrackType": "proctrack/linuxproc",
    "TaskPlugin": "task/none",
    "JobAcctGatherType": "jobacct_gather/none",
    "MpiDefault": "none",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_CPU",
    "SchedulerParameters": "batch_sched_delay=0,bf_interval=1,sched_interval=2",
    "SlurmdParameters": "config_overrides",  # CPUs as told below, not as found
    "SlurmdTimeout": 5,  # together with the next, a dead node is DOWN after about 12 s
    "MessageTimeout": 3,
    "ReturnToService": 2,  # and is taken back as soon as it registers
    "JobRequeue": 1,
    "KillWait": 10,
    "MinJobAge": 300,  # squeue and scontrol forget finished jobs after so many seconds
    "InactiveLimit": 0,
}


class RigError(RuntimeError):
    """The rig cannot do what it was asked; the text says why."""


def missing() -> str:
    """Why no rig can run here, in one line; empty if one can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if absent:
        packages = "slurmctld slurmd slurm-client"
        return f"{', '.join(absent)} not found: apt-get install --no-install-recommends {packages}"
    if os.geteuid():
        return "a Slurm of one's own needs root"
    if shutil.which("unshare") is None or subprocess.run(_unshare("true")).returncode:
        return "this machine does not let root make namespaces (unshare)"
    return ""


def _unshare(*command: str) -> list[str]:
    flags = "--pid --fork --kill-child --mount --mount-proc --uts --propagation slave"
    return ["unshare", *flags.split(), *command]


class Cluster:
    """Two nodes ``n1`` and ``n2`` of one CPU each, their controller, and all files in a folder.

    Args:
        folder: where to keep everything; a cluster that another process started there is found.
        leash: end the daemons with the thread that starts them, even if it is killed.
    """

    def __init__(self, folder: str | os.PathLike, leash: bool = False) -> None:
        self.folder, self.leash = Path(folder).resolve(), leash
        self.conf = self.folder / "slurm.conf"
        self._children: list[subprocess.Popen] = []

    @property
    def env(self) -> dict[str, str]:
        """This process's environment with this cluster in it."""
        return {**os.environ, "SLURM_CONF": str(self.conf)}

    def start(self, timeout: float = 60.0, **settings: object) -> None:
        """Start the daemons and wait for both nodes to be idle; ``settings`` go to slurm.conf.

        Raises:
            RigError: they did not come up; the message ends with the ends of their logs.
        """
        if self._holders():
            raise RigError(f"a cluster runs in {self.folder} already; stop it first")
        if len(str(self.folder)) > 70:  # slurmstepd's socket lies below it: 108 bytes at most
            raise RigError(f"{self.folder} is too long a name for sockets; use a shorter one")
        self._configure(settings)
        try:
            for name in (CONTROLLER, *NODES):
                self._launch(name)
            self._wait(NODES, ("idle",), timeout)
        except BaseException:
            self.stop()
            raise

    def kill_node(self, name: str) -> None:
        """Kill -9 the node's slurmd, its slurmstepd and all jobs on it, as when a node dies."""
        self._end(_known(name))

    def resume_node(self, name: str, timeout: float = 60.0) -> None:
        """Start the node again and wait until it is usable."""
        if not self._holders(_known(name)):
            self._launch(name)
        self._wait((name,), USABLE, timeout)

    def clear(self) -> None:
        """Cancel all jobs and wait until both nodes are idle, a dead one included."""
        for name in NODES:
            self.resume_node(name)
        self.run("scancel", f"--user={getpass.getuser()}")
        self._wait(NODES, ("idle",), 60.0)

    def stop(self) -> None:
        """End all that was started, jobs included; works after half a start, and twice."""
        self._end()
        for child in self._children:
            child.wait()
        self._children.clear()

    def run(self, *command: str, **options) -> str:
        """What a command, such as ``squeue``, prints.

        Raises:
            RigError: it failed; the message is what it printed.
        """
        options = {"env": self.env, "timeout": 60, "text": True} | options
        done = subprocess.run(command, capture_output=True, check=False, **options)
        if done.returncode:
            raise RigError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def nodes(self) -> dict[str, str]:
        """The state of each node, such as ``idle``, ``allocated``, ``down*``."""
        rows = self.run("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines()
        return dict(row.split() for row in rows)

    def squeue(self) -> dict[str, str]:
        """The state of each job that is not forgotten; tasks of arrays are ``12_0``, ``12_1``."""
        rows = self.run("squeue", "-h", "-r", "--states=all", "--format=%i %T").splitlines()
        return dict(row.split() for row in rows)

    def job(self, job_id: str) -> dict[str, str]:
        """The fields of ``scontrol show job``, such as ``Restarts`` and ``Reason``."""
        words = self.run("scontrol", "--oneliner", "show", "job", job_id).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def logs(self, lines: int = 15) -> str:
        """The ends of the daemons' logs."""
        ends = []
        for name in (CONTROLLER, *NODES):
            for path in (self.folder / f"{name}.log", self.folder / f"{name}.out"):
                if text := path.read_text(errors="replace") if path.exists() else "":
                    ends += [f"== {path}", *text.splitlines()[-lines:]]
        return "\n".join(ends)

    # ------------------------------------------------------------------------------ daemons
    def _configure(self, settings: dict[str, object]) -> None:
        for name in ("state", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        names = " ".join({"localhost", CONTROLLER, *NODES, socket.gethostname()})
        (self.folder / "hosts").write_text(f"127.0.0.1 {names}\n")
        controller, *ports = _free_ports(1 + len(NODES))
        files = {
            "SlurmctldPort": controller,
            "StateSaveLocation": self.folder / "state",
            "SlurmctldLogFile": self.folder / f"{CONTROLLER}.log",
            "SlurmctldPidFile": self.folder / f"{CONTROLLER}.pid",
            "SlurmdSpoolDir": self.folder / "spool" / "%n",
            "SlurmdLogFile": self.folder / "%n.log",
            "SlurmdPidFile": self.folder / "%n.pid",
        }
        lines = [f"{key}={value}" for key, value in (SETTINGS | files | settings).items()]
        for node, port in zip(NODES, ports, strict=True):
            what = "CPUs=1 RealMemory=4000 State=UNKNOWN"
            lines.append(f"NodeName={node} NodeAddr=127.0.0.1 Port={port} {what}")
        lines.append(f"PartitionName=main Nodes={','.join(NODES)} Default=YES MaxTime=1-0")
        self.conf.write_text("\n".join(lines) + "\n")

    def _launch(self, name: str) -> None:
        daemon = ["slurmctld"] if name == CONTROLLER else ["slurmd", "-N", name]
        command = _unshare("sh", "-c", INIT, "sh", self.folder, name, self.conf, *daemon)
        if self.leash:
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        process = subprocess.Popen(
            command,
            env={**self.env, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._children.append(process)

    def _holders(self, name: str | None = None) -> list[int]:
        """The processes that hold a daemon's namespaces, or any's; known by their arguments."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError):
                words = (folder / "cmdline").read_text().split("\0")
                word = words[words.index(str(self.conf)) - 1]
                if word == name or (name is None and word in (CONTROLLER, *NODES)):
                    found.append(int(folder.name))
        return found

    def _end(self, name: str | None = None) -> None:
        # The kernel lets the first process of a table go only after all others are gone.
        while holders := self._holders(name):
            for pid in holders:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            while any(map(_lives, holders)):
                time.sleep(0.01)

    def _wait(self, names: tuple[str, ...], states: tuple[str, ...], timeout: float) -> None:
        end, seen, gone = time.monotonic() + timeout, {}, dict.fromkeys((CONTROLLER, *names), 0)
        while not all(seen.get(name) in states for name in names):
            for name in gone:  # in an exec a process has no arguments for a moment
                gone[name] = 0 if self._holders(name) else gone[name] + 1
            dead = [name for name, times in gone.items() if times > 5]
            if dead or time.monotonic() > end:
                why = f"{dead[0]} has ended" if dead else f"not {states[0]} in time: {seen}"
                raise RigError(f"{why}\n{self.logs()}")
            time.sleep(0.2)
            with suppress(RigError, subprocess.TimeoutExpired):
                seen = self.nodes()


def _known(name: str) -> str:
    if name not in NODES:
        raise RigError(f"unknown node {name!r}; there are {', '.join(NODES)}")
    return name


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _free_ports(n: int) -> list[int]:
    """Below the ephemeral ports, where no client takes a dead daemon's port before it returns."""
    found: list[int] = []
    for port in random.sample(range(20000, 32000), 200):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == n:
            return found
    raise RigError("no free ports between 20000 and 32000 on 127.0.0.1")


def main(args: list[str]) -> int:
    if reason := missing():
        print(reason, file=sys.stderr)
        return 77
    try:
        match args:
            case ["start", folder, *settings] if all("=" in s for s in settings):
                cluster = Cluster(folder)
                cluster.start(**dict(s.split("=", 1) for s in settings))
                print(f"export SLURM_CONF={cluster.conf}")
            case ["kill-node", folder, name]:
                Cluster(folder).kill_node(name)
            case ["resume-node", folder, name]:
                Cluster(folder).resume_node(name)
            case ["stop", folder]:
                Cluster(folder).stop()
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except RigError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
