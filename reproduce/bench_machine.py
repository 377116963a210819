"""What a measured speed rests on: processor, memory, versions. No names and no paths."""

import importlib.metadata
import os
import platform
from typing import Any

from reproduce.provenance import cores, cpu_info, cpu_name

__all__ = ["machine"]

# instructions that decide how fast low precision is
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16")


def machine() -> dict[str, Any]:
    """``cpu, cores, memory_gib, flags, os, python, torch, lightning, threads, load``.

    ``threads`` is what torch takes by itself; ``load`` the machine's average over the last minute.
    """
    info = cpu_info()
    flags = (info.get("flags") or info.get("Features", "")).split()
    pages = "SC_PHYS_PAGES" in os.sysconf_names and os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu_name(),
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


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"
