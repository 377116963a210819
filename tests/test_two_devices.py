"""Two processes that train together are one process with the doubled batch."""

import json
import os
import signal
import time

from lightning_modules.distributed import moments

import pytest
import tiny
import torch

from reproduce.cells import expand
from reproduce.launchers import Job
from reproduce.ranks import size
from reproduce.records import Store

pytestmark = pytest.mark.ddp
DDP = {"trainer.devices": 2}


def load(path):
    return torch.load(path, weights_only=True)


@pytest.mark.slow
def test_weights_buffers_and_losses_are_those_of_one_process(tmp_path):
    script = tiny.ROOT / "tests" / "two_devices.py"
    for devices in (1, 2):
        (tmp_path / str(devices)).mkdir()
        run = tiny.python(script, devices, tmp_path / str(devices), cwd=tmp_path)
        assert run.returncode == 0, run.stderr
    first, second = (load(tmp_path / "2" / f"{rank}.pt") for rank in (0, 1))
    alone = load(tmp_path / "1" / "0.pt")
    assert first["loss"] == second["loss"]
    assert len(first["loss"]) == 12
    torch.testing.assert_close(first["loss"], alone["loss"], rtol=1e-5, atol=1e-6)
    assert first["state"].keys() == alone["state"].keys()
    for name, value in first["state"].items():
        torch.testing.assert_close(value, second["state"][name], rtol=0, atol=0)
        torch.testing.assert_close(value, alone["state"][name], rtol=1e-4, atol=1e-5)
    assert sorted(first["state"]["order"].tolist()) == list(range(6))
    assert first["state"]["seen"] == 12
    for name in ("weights-4.pt", "weights-12.pt"):  # EMA of both
        ours, theirs = load(tmp_path / "2" / name), load(tmp_path / "1" / name)
        for key in theirs:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-5)
    # the second process saves nothing under a name of its own
    names = {p.name for p in (tmp_path / "2").iterdir()}
    assert names == {"0.pt", "1.pt", "last.ckpt", "weights-4.pt", "weights-12.pt"}


def test_moments_of_one_device_are_those_of_torch():
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, variance = moments(x, (0, 2, 3))
    torch.testing.assert_close(mean, x.mean((0, 2, 3), keepdim=True))
    torch.testing.assert_close(variance, x.var((0, 2, 3), correction=0, keepdim=True))


def cell_of(changes):
    return expand(tiny.target(lrs=(1e-3,)), "smoke", 1, changes)[0]


def job(cell, results):
    return Job(cell, (tiny.NORM,), ("tiny",)).line(results)


@pytest.mark.slow
def test_a_cell_on_two_devices_is_the_cell_on_one(tmp_path):
    """Through a worker, which gives such a cell a process of its own."""
    alone, together = cell_of({}), cell_of(DDP)
    assert size(together) == (1, 2)
    with tiny.speaker("-m", "reproduce.worker") as worker:
        assert "ready" in json.loads(worker.stdout.readline())
        ends = []
        for cell in (together, alone):
            print(job(cell, tmp_path), file=worker.stdin, flush=True)
            while "end" not in (message := json.loads(worker.stdout.readline())):
                assert "note" not in message
            ends.append(message["end"])
        worker.stdin.close()
        assert ends == ["done", "done"]
    store = Store(tmp_path, "smoke")
    ours, theirs = store.read(together), store.read(alone)
    assert ours["params"] == theirs["params"]
    for a, b in zip(
        ours["curves"]["fit@1"]["loss"], theirs["curves"]["fit@1"]["loss"], strict=True
    ):
        assert a == pytest.approx(b, rel=1e-5)
    assert ours["metrics"]["norm@1"] == pytest.approx(theirs["metrics"]["norm@1"], rel=1e-5)


@pytest.mark.slow
def test_sigterm_stops_both_devices_after_one_step_and_the_cell_resumes(tmp_path):
    long = DDP | {"trainer.max_steps": 100_000, "checkpoint.every": 50_000}
    cell, store = cell_of(long), Store(tmp_path, "smoke")
    folder = store.run_dir(cell)
    path = tmp_path / "job.json"
    path.write_text(job(cell, tmp_path))
    with tiny.speaker("-m", "reproduce.onecell", path, start_new_session=True) as process:
        try:
            for line in process.stdout:
                if json.loads(line).get("step", 0) > 10:
                    break
            process.terminate()
            last = json.loads(process.stdout.readlines()[-1])
            assert last == {"end": "stopped"}
            assert process.wait(timeout=60) == 0
            end = time.monotonic() + 30
            while group_lives(process.pid):
                assert time.monotonic() < end, "the other device's process is alive"
                time.sleep(0.1)
        finally:
            if group_lives(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
    assert load(folder / "last.ckpt")["global_step"] > 10
    assert not (folder / "weights-100000.pt").exists()
    assert store.read(cell) is None


def group_lives(pgid: int) -> bool:
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("strategy", ["fsdp", "ddp"])
def test_a_strategy_from_yaml_reaches_the_trainer_or_is_refused_in_one_line(strategy, tmp_path):
    from reproduce.training import build, one_line

    config = dict(cell_of({}).config)
    config["trainer"] = config["trainer"] | {
        "strategy": strategy,
        "devices": 2,
        "default_root_dir": str(tmp_path),
        "logger": False,
    }
    if strategy == "fsdp" and not torch.cuda.is_available():
        with pytest.raises(Exception, match="GPU") as refused:
            build(config)
        assert "\n" not in one_line(refused.value)
    else:
        trainer = build(config).trainer
        assert type(trainer.strategy).__name__ == strategy.upper() + "Strategy"
        assert trainer.world_size == 2
