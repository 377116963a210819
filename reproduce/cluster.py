"""Cells on a cluster: all that are missing as one job array, through submitit.

Who does what. Slurm gives machines. submitit submits, and requeues a task that Slurm warns of its
time limit or of preemption (SIGUSR2): it alone, Lightning's own requeueing is off. The task
finishes its step and saves before it lets itself be requeued. We wait, look for tasks that ended
without a record, and submit those again. The records are the result; nothing else comes back.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reproduce.errors import RequestError
from reproduce.launchers import Job, record_death
from reproduce.onecell import serve
from reproduce.progress import Progress
from reproduce.provenance import threads_of_a_worker
from reproduce.ranks import size, wants_gpu
from reproduce.records import CorruptRecord, Store, complete, write_atomically

__all__ = ["Task", "run_cluster"]

POLL_S = {"slurm": 2.0, "local": 0.1}
DEFAULTS = {"time": 240, "signal_delay_s": 90}  # minutes; seconds of warning before the limit
_LOST = 3  # a cell whose task ends this often without a record has failed


class Task:
    """One array task: a job as a JSON line."""

    def __init__(self, line: str) -> None:
        self.line = line

    def __call__(self) -> str:
        from lightning_modules.stopping import asked, listen

        import torch

        torch.set_num_threads(threads_of_a_worker())
        requeue = signal.getsignal(signal.SIGUSR2)
        listen(signal.SIGTERM, signal.SIGUSR2)
        status = serve(json.loads(self.line), lambda message: print(message, flush=True))
        if status == "stopped":
            if asked() == signal.SIGUSR2 and callable(requeue):
                requeue(signal.SIGUSR2, None)  # submitit's: ends this process
            sys.exit(128 + signal.SIGTERM)
        return status

    def checkpoint(self) -> Any:
        """What submitit runs after a requeue: the same, for the cell resumes by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def run_cluster(
    jobs: list[Job],
    store: Store,
    progress: Progress,
    at_once: int | None = None,
    options: Iterable[str] = (),
    cluster: str = "slurm",
) -> int:
    """Run jobs as tasks of a cluster, wait for all; return how many cells failed.

    Args:
        at_once: tasks that may run at the same time.
        options: ``key=value`` for sbatch, as ``partition=gpu`` or ``time=600`` (minutes).
        cluster: ``slurm``, or ``local`` for the same on this machine.

    Raises:
        RequestError: there is no such cluster here, or it takes no such job.
    """
    executor = _executor(store.root.resolve() / "runs" / "cluster", cluster)
    given = _parse(options)
    waiting = list(jobs)
    running: dict[str, tuple[Job, Any]] = {}
    pause: dict[str, float] = {}  # cells that another run has: not before then
    deaths: dict[str, int] = {}
    failed, done = 0, 0
    if cluster == "slurm":
        running = _attach(waiting, executor)
        waiting = [job for job in waiting if job.cell.name not in running]
        if running:
            progress.note(f"{len(running)} tasks of an earlier run go on")
    try:
        while waiting or running:
            now = time.monotonic()
            due = [job for job in waiting if pause.get(job.cell.name, 0.0) <= now]
            if cluster == "local":
                due = due[: max(0, (at_once or os.cpu_count() or 1) - len(running))]
            waiting = [job for job in waiting if job not in due]
            for group in _alike(due):
                running |= _submit(group, executor, given, at_once)
            time.sleep(POLL_S[cluster])
            for name in _ended(running, cluster):
                job, handle = running.pop(name)
                status, why = _outcome(job, handle, store)
                if status == "busy":
                    pause[name] = time.monotonic() + 10 * POLL_S[cluster]
                    waiting.append(job)
                    continue
                if status == "lost":
                    deaths[name] = deaths.get(name, 0) + 1
                    if deaths[name] < _LOST:
                        progress.note(f"{name}: its task {why}; another one resumes it")
                        waiting.append(job)
                        continue
                    record_death(job, store, f"its task {why} {_LOST} times")
                    progress.note(f"{name} failed: its task {why} {_LOST} times")
                    status = "failed"
                failed += status == "failed"
                progress.start(done, name)
                progress.finish(done, status)
                done += 1
            progress.extra = f"{len(running)} tasks in the queue or running"
            progress.tick()
    except KeyboardInterrupt:
        _let_go(running, cluster, progress)
        raise
    return failed


def _executor(folder: Path, cluster: str) -> Any:
    try:
        import submitit
    except ImportError:
        raise RequestError(
            "--launcher slurm needs submitit: .venv/bin/python -m pip install -e '.[cluster]'"
        ) from None
    if cluster == "local":
        return submitit.LocalExecutor(folder)
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise RequestError("no sbatch and srun here: --launcher slurm runs on a Slurm login node")
    return submitit.SlurmExecutor(folder, max_num_timeout=1000)


def _parse(options: Iterable[str]) -> dict[str, Any]:
    """``key=value`` pairs, numbers where they look like it.

    Raises:
        RequestError: something else than a pair.
    """
    found: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not key or not equals:
            raise RequestError(f"--slurm {option!r}: write key=value, as in partition=gpu")
        found[key.replace("-", "_")] = int(value) if value.isdecimal() else value
    return found


def _alike(jobs: Iterable[Job]) -> list[list[Job]]:
    """Jobs that ask for the same machines, at most a thousand together: an array each."""
    groups: dict[tuple[Any, ...], list[Job]] = {}
    for i, job in enumerate(jobs):
        trainer = job.cell.config["trainer"]
        groups.setdefault((*size(job.cell), trainer["accelerator"], i // 1000), []).append(job)
    return list(groups.values())


def _submit(
    jobs: list[Job], executor: Any, given: Mapping[str, Any], at_once: int | None
) -> dict[str, tuple[Job, Any]]:
    nodes, devices = size(jobs[0].cell)
    results = executor.folder.parents[2]
    if type(executor).__name__ == "SlurmExecutor":
        asks: dict[str, Any] = {**DEFAULTS, "job_name": "entroflow", "stderr_to_stdout": True}
        asks |= {"cpus_per_task": threads_of_a_worker()}
        # several machines: a task for each device; else Lightning starts the other processes
        asks |= {"nodes": nodes, "ntasks_per_node": devices if nodes > 1 else 1}
        if nodes == 1:
            asks["cpus_per_task"] *= devices
        if wants_gpu(jobs[0].cell):
            asks["gpus_per_node"] = devices
        if at_once:
            asks["array_parallelism"] = at_once
        known = type(executor)._valid_parameters()
        asks |= {k: v for k, v in given.items() if k in known}
        asks["srun_args"] = [f"--cpus-per-task={asks['cpus_per_task']}"]  # srun inherits it not
        own = {k: v for k, v in given.items() if k not in known}
        asks["additional_parameters"] = {"requeue": True, **own}
        executor.update_parameters(**asks)
    else:
        executor.update_parameters(timeout_min=DEFAULTS["time"], stderr_to_stdout=True)
    try:
        # what sbatch says is told in our own line
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():
            handles = [executor.submit(Task(job.line(results))) for job in jobs]
    except subprocess.CalledProcessError as error:
        raise RequestError(f"sbatch refused the job: {_last_line(error.stderr)}") from None
    except Exception as error:  # submitit's own, which wraps what sbatch said
        raise RequestError(f"the cluster refused the job: {_last_line(str(error))}") from None
    found = {}
    for job, handle in zip(jobs, handles, strict=True):
        found[job.cell.name] = (job, handle)
        write_atomically(_note(executor, job), json.dumps({"task": handle.job_id}) + "\n")
    return found


def _last_line(text: Any) -> str:
    text = text.decode(errors="replace") if isinstance(text, bytes) else str(text or "")
    return ([line for line in text.splitlines() if line.strip()] or ["no word why"])[-1].strip()


def _note(executor: Any, job: Job) -> Path:
    return Path(executor.folder) / f"{job.cell.name}.task.json"


def _attach(jobs: Iterable[Job], executor: Any) -> dict[str, tuple[Job, Any]]:
    """The jobs that tasks of an earlier, interrupted run still work on."""
    queue = _queue()
    found = {}
    for job in jobs:
        try:
            task = json.loads(_note(executor, job).read_text())["task"]
        except (OSError, ValueError, KeyError):
            continue
        if queue is not None and task in queue:
            found[job.cell.name] = (job, executor.job_class(executor.folder, task, [0]))
    return found


def _queue() -> set[str] | None:
    """Our tasks that wait or run, as ``job_task``; None where Slurm does not answer."""
    told = subprocess.run(
        ["squeue", "--me", "-h", "-r", "-o", "%i"], capture_output=True, text=True, check=False
    )
    return set(told.stdout.split()) if told.returncode == 0 else None


def _ended(running: Mapping[str, tuple[Job, Any]], cluster: str) -> list[str]:
    """Cells whose task has answered, or is no longer there."""
    if cluster == "local":
        return [name for name, (_, handle) in running.items() if handle.done()]
    queue = _queue()
    ended = []
    for name, (_, handle) in running.items():
        answered = handle.task(0).paths.result_pickle.exists()
        if answered or (queue is not None and handle.job_id not in queue):
            ended.append(name)
    return ended


def _outcome(job: Job, handle: Any, store: Store) -> tuple[str, str]:
    """``done``, ``failed``, ``busy`` or ``lost``, and why it is lost."""
    path = handle.task(0).paths.result_pickle
    end = time.monotonic() + (0.0 if path.exists() else 3.0)
    while not path.exists() and time.monotonic() < end:  # a shared file system may be late
        time.sleep(0.2)
    if not path.exists():
        return "lost", "ended without an answer (its machine or the task was killed)"
    try:
        status = handle.task(0).result()
    except Exception as error:
        return "lost", f"broke off with {_last_line(str(error))}"
    try:
        record = store.read(job.cell)
    except CorruptRecord:
        record = None
    if status == "done" and not complete(job.cell, record, job.evaluators):
        return "lost", "left no record"
    return status, ""


def _let_go(running: Mapping[str, tuple[Job, Any]], cluster: str, progress: Progress) -> None:
    if cluster == "local":
        for _, handle in running.values():
            handle._process.terminate()
        for _, handle in running.values():
            handle._process.wait()
    elif running:
        ids = sorted({handle.job_id.split("_")[0] for _, handle in running.values()})
        progress.note(
            f"{len(running)} tasks go on in the cluster (scancel {' '.join(ids)} ends them); "
            "the same command collects them"
        )
