"""What the engine's tests share: a target of a tenth of a second a cell, and runs of the CLI."""

import dataclasses
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

from reproduce import launchers, papers, publish
from reproduce.cells import Cell
from reproduce.neural_entropy.transport import EPOCHS
from reproduce.target import Arm, Evaluator, Identity, Target

ROOT = Path(__file__).resolve().parents[1]
NORM = Evaluator("norm", 1, "tiny:norm")
TRACE = Evaluator("trace", 1, "tiny:trace")
CHEAP = {
    "trainer.max_steps": 12,
    "marks.updates": [4, 8, 12],
    "checkpoint.every": 4,
    "data.init_args.n_train": 40,
    "data.init_args.n_eval": 8,
    "data.init_args.batch_size": 8,
}


# ------------------------------------------------------------------------- evaluators, figure
def _weights(model):
    import torch

    return torch.cat([p.detach().double().flatten() for p in model.parameters()])


def norm(model, data):
    """Numbers that any change of any weight changes."""
    w = _weights(model)
    return {"norm": float(w.norm()), "sum": float(w.sum())}


def trace(model, data):
    w = _weights(model)
    return {"first": float(w[0]), "some": w[:5].tolist()}


def broken(model, data):
    raise ValueError("this evaluator\nis broken")


def draw(seen, records):
    from reproduce.figures import figure

    fig, ax = figure()
    for record in records:
        ax.plot(record["curves"][seen.target.evaluators[0].key]["updates"])
    return fig


# ------------------------------------------------------------------------------------ targets
def target(name: str = "tiny", lrs=(1e-3, 2e-3), evaluators=(NORM,), **changes) -> Target:
    """Cells that differ in their learning rate; two targets with equal ``lrs`` share them."""

    def arms(tier: str) -> list[Arm]:
        return [Arm({"lr": lr}, {**CHEAP, "model.init_args.lr": lr}) for lr in lrs]

    made = Target(
        id=name,
        paper="neural-entropy",
        title="Tiny",
        question="Does the engine work?",
        reference="none",
        config="neural_entropy",
        arms=arms,
        seeds=dict.fromkeys(papers.TIERS, 1),
        evaluators=tuple(evaluators),
        metrics={"norm": "", "sum": "", "first": ""},
        claims=(Identity("positive", "The norm is positive", metric="norm", low=0.0),),
        figure="tiny:draw",
        index="updates",
    )
    return dataclasses.replace(made, **changes)


def raised(evaluator: Evaluator) -> Evaluator:
    return dataclasses.replace(evaluator, version=evaluator.version + 1)


def register(monkeypatch, *known: Target) -> None:
    """Make these the only targets, and run cells in this process instead of in workers."""
    table = {t.id: t for t in known}
    for module, name in ((papers, "targets"), (launchers, "all_targets"), (publish, "targets")):
        monkeypatch.setattr(module, name, lambda: table)
    monkeypatch.setattr(launchers, "run_local", in_process)


def in_process(jobs, store, n_workers, progress) -> int:
    """What ``run_local`` does, one cell after another, with a job's trip through JSON."""
    from reproduce.runner import run_cell

    def send(message):
        if "note" in message:
            progress.note(message["note"])

    failed = 0
    for job in jobs:
        line = json.loads(job.line(store.results))
        evaluators = tuple(Evaluator(**e) for e in line["evaluators"])
        status = run_cell(Cell(**line["cell"]), evaluators, line["targets"], store, send)
        progress.start(0, job.cell.name)
        progress.finish(0, status)
        failed += status == "failed"
    return failed


# ---------------------------------------------------------------------------- real processes
def environment() -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def python(*args, cwd: Path, **options) -> subprocess.CompletedProcess[str]:
    """Run this Python and wait for it."""
    options = {"capture_output": True, "text": True, "timeout": 240} | options
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=environment(), check=False, **options)


def start(*args, results: Path, log: Path) -> subprocess.Popen:
    """Start ``python -m reproduce`` in a process group of its own, its output in ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "reproduce", *args, "--results", str(results)],
            cwd=log.parent,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def speaker(*args, **options) -> subprocess.Popen[str]:
    """A process of this Python that hears and answers in lines, as a worker does."""
    return subprocess.Popen(
        [sys.executable, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        **options,
    )


def finished_run(tmp_path_factory) -> Path:
    """The results of ``run ne-epochs`` at smoke, made once for all test processes. Read only."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder, log = base / "finished" / "results", base / "finished" / "log"
    base.joinpath("finished").mkdir(exist_ok=True)
    with (base / "finished" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "smoke" / "report.html").exists():
            run = start("run", EPOCHS.id, "--jobs", "1", results=folder, log=log)
            assert run.wait(timeout=240) == 0, log.read_text()
    return folder


# ------------------------------------------------------------------------------------- looking
def records(results: Path, tier: str = "smoke") -> dict[str, dict]:
    """Records by cell name."""
    found = (results / tier / "records").glob("*/*.json")
    return {p.stem: json.loads(p.read_text()) for p in sorted(found)}


def tables(results: Path, tier: str = "smoke") -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((results / tier).glob("*.csv"))}


def numbers(record: dict) -> dict:
    """What a record says of the model, without when and where it was made."""
    return {k: record[k] for k in ("metrics", "curves", "params", "data_sha256", "status")}
