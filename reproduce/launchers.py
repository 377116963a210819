"""Where cells run: a plan of missing cells, and local worker processes that work it off."""

import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from reproduce.cells import Cell, expand
from reproduce.errors import RequestError
from reproduce.papers import targets as all_targets
from reproduce.progress import Progress
from reproduce.provenance import provenance, threads_of_a_worker
from reproduce.records import Busy, CorruptRecord, Store, blank, complete, fail
from reproduce.target import Evaluator, Target

__all__ = ["Job", "plan", "record_death", "run_local"]


@dataclasses.dataclass(frozen=True)
class Job:
    """A cell with all that its targets want to know of it."""

    cell: Cell
    evaluators: tuple[Evaluator, ...]
    targets: tuple[str, ...]

    @property
    def weight(self) -> float:
        """A rough relative duration: training a cell outweighs computing one."""
        return 4.0 if self.cell.updates[-1] else 1.0

    def line(self, results: Path) -> str:
        return json.dumps(
            {
                "cell": dataclasses.asdict(self.cell),
                "evaluators": [dataclasses.asdict(e) for e in self.evaluators],
                "targets": list(self.targets),
                "results": str(results),
            }
        )


def plan(
    wanted: Iterable[Target],
    tier: str,
    n_seeds: int | None,
    store: Store,
    adopt: bool = True,
) -> tuple[list[Job], int]:
    """The cells that must run, each once, and how many there are in all.

    A record that serves already takes up the new targets' ids without running anything, if
    ``adopt``. A damaged one is left to the run of its cell, which owns it.
    """
    cells: dict[str, Cell] = {}
    asked: dict[str, list[Target]] = {}
    for target in wanted:
        for cell in expand(target, tier, n_seeds, store.changes):
            cells.setdefault(cell.name, cell)
            asked.setdefault(cell.name, []).append(target)
    jobs = []
    for name, cell in cells.items():
        try:
            record = store.read(cell)
        except CorruptRecord:
            record = None
        known = (all_targets().get(t) for t in (record or {}).get("targets", ()))
        users = {t.id: t for t in (*asked[name], *known) if t is not None}
        evaluators = tuple(dict.fromkeys(e for t in users.values() for e in t.measured(cell)))
        if not complete(cell, record, evaluators):
            jobs.append(Job(cell, evaluators, tuple(users)))
        elif adopt and record is not None and not set(users) <= set(record["targets"]):
            try:
                store.adopt(cell, list(users))
            except Busy:
                jobs.append(Job(cell, evaluators, tuple(users)))
    jobs.sort(key=lambda job: -job.weight)  # the long ones first: no core waits at the end
    return jobs, len(cells)


class _Worker:
    """A worker process and the job it has."""

    def __init__(self, number: int, log: Path, inbox: "queue.Queue[tuple[int, Any]]") -> None:
        self.number, self.job, self.log = number, None, log.open("a")
        self.ready = False
        env = {**os.environ, "OMP_NUM_THREADS": str(threads_of_a_worker())}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "reproduce.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=env,
        )
        self.listener = threading.Thread(target=self._listen, args=(inbox,), daemon=True)
        self.listener.start()

    def _listen(self, inbox: "queue.Queue[tuple[int, Any]]") -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                inbox.put((self.number, json.loads(line)))
            except ValueError:
                pass  # half a line: it was killed while it spoke
        inbox.put((self.number, {"died": self.process.wait()}))

    def give(self, job: Job, results: Path) -> None:
        self.job = job
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(job.line(results) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # its death is on its way through the inbox

    def stop(self) -> None:
        """Wait for its end: it was told, or has died already."""
        self.process.terminate()
        self.process.wait()
        self.listener.join()
        for pipe in (self.process.stdin, self.process.stdout, self.log):
            with suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]


def run_local(jobs: list[Job], store: Store, n_workers: int, progress: Progress) -> int:
    """Run jobs on local processes; return how many cells failed.

    A cell that another run is busy with is left to it and looked at again. A cell whose worker
    dies goes to a new worker, which resumes from the checkpoint; one that kills a second worker is
    recorded as failed.

    Raises:
        RequestError: no worker could start.
    """
    waiting, deaths, unborn, failed = list(jobs), {}, 0, 0
    busy: list[tuple[float, Job]] = []
    inbox: queue.Queue[tuple[int, Any]] = queue.Queue()
    log = store.root / "runs" / "workers.log"
    workers = {i: _Worker(i, log, inbox) for i in range(min(n_workers, max(1, len(waiting))))}

    def next_job() -> Job | None:
        if waiting:
            return waiting.pop(0)
        if busy and time.monotonic() >= busy[0][0]:
            return busy.pop(0)[1]
        return None

    idle: set[int] = set()
    try:
        while waiting or busy or any(w.job for w in workers.values()):
            for i in sorted(idle):
                if (job := next_job()) is not None:
                    idle.discard(i)
                    workers[i].give(job, store.results)
                    marks = sum(len(e.updates(job.cell)) for e in job.evaluators)
                    progress.start(i, job.cell.name, marks)
            try:
                i, message = inbox.get(timeout=0.5)
            except queue.Empty:
                progress.tick()
                continue
            worker = workers[i]
            if "ready" in message:
                worker.ready = True
                idle.add(i)
            elif "note" in message:
                progress.note(message["note"])
            elif "died" in message:
                job = worker.job
                how = _how(message["died"])
                idle.discard(i)
                unborn += not worker.ready
                if unborn > 1:
                    raise RequestError(f"no worker could start: the end of {log} says why")
                if job is not None:
                    deaths[job.cell.name] = deaths.get(job.cell.name, 0) + 1
                    if deaths[job.cell.name] < 2:
                        progress.note(f"{job.cell.name}: worker {how}; another one resumes it")
                        waiting.insert(0, job)
                    else:
                        progress.note(f"{job.cell.name} failed: its worker {how} twice")
                        record_death(job, store, f"the worker {how} twice")
                        failed += 1
                        progress.finish(i, "failed")
                worker.stop()
                workers[i] = _Worker(i, log, inbox)
            elif "end" in message:
                job, worker.job = worker.job, None
                assert job is not None
                if message["end"] == "stopped":  # by somebody else: its process ends, we go on
                    worker.job = job
                    continue
                if message["end"] == "busy":
                    progress.start(i, f"{job.cell.name} (another run has it)")
                    busy.append((time.monotonic() + 1.0, job))
                else:
                    failed += message["end"] == "failed"
                    progress.finish(i, message["end"])
                idle.add(i)
            else:
                progress.update(i, message)
    finally:
        _stop(list(workers.values()), progress)
    return failed


def _stop(workers: list[_Worker], progress: Progress) -> None:
    """End the workers, who finish their training step and save first; kill them if told again."""
    for worker in workers:
        worker.process.terminate()
    if at_work := [w.job.cell.name for w in workers if w.job is not None]:
        progress.note(f"saving {', '.join(at_work)}; Ctrl-C again stops at once")
    try:
        for worker in workers:
            worker.stop()
    except KeyboardInterrupt:
        for worker in workers:
            worker.process.kill()
            worker.stop()
        raise


def _how(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"


def record_death(job: Job, store: Store, error: str) -> None:
    """Record a failure in the place of a process that could not."""
    try:
        with store.lock(job.cell):
            record = blank(job.cell, store.read(job.cell), job.targets)
            store.write(job.cell, fail(record, error) | provenance(record["device"]))
    except (Busy, CorruptRecord):
        pass  # another run has taken the cell over, or will set the damage aside
