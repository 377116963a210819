"""W1: a Glow of three scales of eight steps on colour images, against the flow libraries.

Training is forward, backward and Adam; what each peer leaves out is in its note. Memory is what
a fresh process needs for it beyond what it needed to get there.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from reproduce.bench import Contender, Workload
from reproduce.bench_peers import HIDDEN, PEERS, SCALES, SHAPE, STEPS, Flow
from reproduce.errors import RequestError
from reproduce.provenance import peak_mib

__all__ = ["flows", "peak"]

BATCH, TURNS = 32, 6
OURS, BF16, SHUFFLED = "Glow", "Glow, bf16 coupling nets", "Glow with Shuffle"
_NOTES = {
    "FrEIA": "1,562,592 parameters: fixed permutations in place of 1x1 convolutions",
    "normflows": "1,611,912 parameters: 1x1 convolutions as LU",
    "nflows": "1,587,456 parameters: 1x1 convolutions as LU",
}


def flows() -> Workload:
    """Images per second trained on, evaluated and drawn, and the memory of training.

    Raises:
        RequestError: a peer is not installed.
    """
    for peer in PEERS:
        try:
            __import__(peer)
        except ImportError:
            raise RequestError(
                f"w1 compares with {peer}: .venv/bin/python -m pip install -e '.[bench]'"
            ) from None
    kinds = {"train": _train, "log_prob": _log_prob, "sample": _sample}
    bounds = {"train": (1.10, 1.25), "log_prob": (1.15, 1.35), "sample": (1.15, 1.35)}
    contenders, groups = [], {}
    for kind, (accept, aim) in bounds.items():
        names = {f"{peer}, {kind}": peer for peer in PEERS}
        ours = [
            Contender(f"{OURS}, {kind}", tuple(names), accept, aim, note="1,586,880 parameters")
        ]
        if kind == "train":
            ours += [
                Contender(
                    f"{BF16}, train", tuple(names), 1.6, 2.0, note="bits/dim moves by < 1e-4"
                ),
                Contender(f"{SHUFFLED}, train", f"{OURS}, train", 0.95, 1.0),
            ]
        theirs = [Contender(name, note=_NOTES[peer]) for name, peer in names.items()]
        contenders += [*ours, *theirs]
        groups[kind] = [c.name for c in (*ours, *theirs)]
    memory = {f"{name}, memory": name for name in (OURS, *PEERS)}
    first, *others = memory
    contenders.append(Contender(first, tuple(others), 1.0, 0.9, unit="MiB"))
    contenders += [Contender(name, unit="MiB", note="of training") for name in others]

    def round(order: list[str]) -> Iterable[tuple[str, float]]:
        for kind, names in groups.items():
            names = sorted(names, key=order.index)
            made = [_made(name.removesuffix(f", {kind}")) for name in names]
            yield from zip(names, _in_turns([kinds[kind](flow) for flow in made]), strict=True)
        for name in sorted(memory, key=order.index):
            yield name, _in_a_process(memory[name])

    title = f"Glow on {SHAPE[1]} x {SHAPE[2]} colour images, batches of {BATCH}"
    return Workload("w1", title, "images/s", tuple(contenders), round)


def _built(name: str) -> Flow:
    return _ours(name) if name.startswith(OURS) else PEERS[name]()


def _made(name: str) -> Flow:
    """A contender whose ActNorms have seen data, in evaluation mode."""
    import torch

    flow = _built(name)
    with torch.no_grad():
        flow.module.train()
        flow.log_prob(_images())
        flow.module.eval()
    return flow


def _ours(name: str) -> Flow:
    from lightning_modules.eiw_flow import Glow
    from lightning_modules.flows import Noise

    order = "eiw" if name == SHUFFLED else "identity"
    net, noise = Glow(SHAPE, SCALES, STEPS, HIDDEN, bf16=name == BF16, order=order), Noise()
    return Flow(net, lambda x: net(x).log_prob, lambda n: net.sample(n, noise))


def _images() -> Any:
    import torch

    return torch.rand(BATCH, *SHAPE) - 0.5


def _train(flow: Flow) -> Callable[[], Any]:
    import torch

    flow.module.train()
    weights = [p for p in flow.module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=1e-4, fused=True)
    x = _images()

    def step() -> None:
        optimizer.zero_grad()
        flow.log_prob(x).mean().neg().backward()
        optimizer.step()

    return step


def _log_prob(flow: Flow) -> Callable[[], Any]:
    import torch

    x = _images()
    return torch.no_grad()(lambda: flow.log_prob(x))


def _sample(flow: Flow) -> Callable[[], Any]:
    import torch

    return torch.no_grad()(lambda: flow.sample(BATCH))


def _in_turns(calls: list[Callable[[], Any]]) -> list[float]:
    """Images per second of each, the median of its turns.

    A turn is three calls of which the first is not timed: it finds the caches full of others.
    """
    spent: list[list[float]] = [[] for _ in calls]
    for _ in range(TURNS):
        for call, times in zip(calls, spent, strict=True):
            call()
            begun = time.perf_counter()
            call()
            call()
            times.append((time.perf_counter() - begun) / 2)
    return [BATCH / statistics.median(times) for times in spent]


# ------------------------------------------------------------------------------------- memory
def _in_a_process(name: str) -> float:
    code = f"from reproduce.bench_flows import peak; print(peak({name!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise RequestError(f"{name} did not train: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout)


def peak(name: str) -> float:
    """MiB by which three updates raise the greatest resident size of this process."""
    flow = _built(name)
    with suppress(OSError):  # Linux: imports needed more than what is left of them
        Path("/proc/self/clear_refs").write_text("5")
    before = peak_mib()
    step = _train(flow)
    for _ in range(3):
        step()
    return peak_mib() - before
