"""What a record rests on: commit, packages, processor, memory, the hour."""

import datetime
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["cores", "cpu_info", "cpu_name", "peak_mib", "provenance", "threads_of_a_worker"]

_PACKAGES = ("torch", "lightning", "numpy", "scipy", "scikit-learn", "datasets", "torchmetrics")


@cache
def _git() -> tuple[str | None, bool | None]:
    """Commit and whether the work tree differs from it, outside results."""
    folder = Path(__file__).parent

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ":/", ":(exclude,top)results")
        return git("rev-parse", "HEAD"), bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return None, None


@cache
def _packages() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def _processor() -> str:
    """Its name and its widest vectors: with others, sums are rounded otherwise."""
    flags = cpu_info().get("flags", "").split()
    vectors = next((flag for flag in ("avx512f", "avx2") if flag in flags), "")
    return f"{cpu_name()} {vectors}".strip()[:100]


def cpu_name() -> str:
    """As its maker calls it, else its architecture."""
    return cpu_info().get("model name") or platform.processor() or platform.machine()


def cpu_info() -> dict[str, str]:
    """The first processor's entries of Linux's list; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def provenance(device: str) -> dict[str, Any]:
    """Keys of a record that say how it came to be; none of them enters a table."""
    sha, dirty = _git()
    peak = peak_mib()
    if device not in ("cpu", "mps"):
        import torch

        peak = torch.cuda.max_memory_allocated() / 1024**2
    return {
        "git_sha": sha,
        "dirty": dirty,
        "packages": _packages(),
        "processor": _processor(),
        "peak_mem_mb": round(peak, 1),
        "utc": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def peak_mib() -> float:
    """The greatest resident size of this process so far."""
    with suppress(OSError), open("/proc/self/status") as status:
        # ru_maxrss of a child begins at what its parent had
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    unit = 1024**2 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def cores() -> int:
    """The cores this process may use, which in a container or a job are fewer than there are."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def threads_of_a_worker() -> int:
    """``$ENTROFLOW_THREADS``, else one: results at tier small rest on it."""
    return int(os.environ.get("ENTROFLOW_THREADS", "1"))
