"""What a measured speed rests on: processor, memory, versions. No names and no paths."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from reproduce.provenance import cores

__all__ = ["machine"]

# instructions that decide how fast low precision is
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16")


def machine() -> dict[str, Any]:
    """``cpu, cores, memory_gib, flags, os, python, torch, lightning, threads, load``.

    ``threads`` is what torch takes by itself; ``load`` the machine's average over the last minute.
    """
    info = _cpuinfo()
    flags = (info.get("flags") or info.get("Features", "")).split()
    pages = "SC_PHYS_PAGES" in os.sysconf_names and os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "memory_gib": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**30) if pages else "",
        "flags": " ".join(flag for flag in _FLAGS if flag in flags),
        "os": _system(),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "lightning": importlib.metadata.version("lightning"),
        "threads": int(os.environ.get("OMP_NUM_THREADS", "0")) or cores(),
        "load": round(os.getloadavg()[0], 1),
    }


def _cpuinfo() -> dict[str, str]:
    """The first processor's entries of Linux's list; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"
