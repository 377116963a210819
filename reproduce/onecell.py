"""One job in a process of its own: ``python -m reproduce.onecell JOB.json``.

For cells on several devices, whose other processes Lightning starts by the same command. The first
process answers in JSON lines, as a worker does, and dies with whoever started it.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reproduce.cells import Cell
from reproduce.ranks import follow, is_first, size
from reproduce.records import Busy, Store
from reproduce.target import Evaluator

__all__ = ["answers", "main", "serve"]

Send = Callable[[dict[str, Any]], None]


def serve(job: dict[str, Any], send: Send, apart: bool = True) -> str:
    """Run a job; ``done``, ``failed``, ``busy`` or ``stopped``.

    A cell on several devices gets a process of its own, if ``apart``.

    Raises:
        RuntimeError: that process died.
    """
    from lightning_modules.stopping import Stopped

    from reproduce.runner import run_cell

    cell = Cell(**job["cell"])
    store = Store(Path(job["results"]), cell.tier)
    try:
        if apart and size(cell) != (1, 1):
            return _run_apart(job, cell, send)
        if not is_first():
            follow(cell, store.run_dir(cell))
            return "done"
        evaluators = tuple(Evaluator(**e) for e in job["evaluators"])
        return run_cell(cell, evaluators, job["targets"], store, send)
    except Busy:
        return "busy"
    except Stopped:
        return "stopped"
    except OSError as error:
        send({"note": f"{cell.name}: {error}: free some space or make results writable"})
        return "failed"


def _run_apart(job: dict[str, Any], cell: Cell, send: Send) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(job, file)
        file.flush()
        with subprocess.Popen(
            [sys.executable, "-m", "reproduce.onecell", file.name],
            stdin=subprocess.PIPE,  # its end tells the child that we are gone
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
            try:
                assert child.stdout is not None
                for line in child.stdout:
                    message = json.loads(line)
                    if "end" in message:
                        return message["end"]
                    send(message)
            finally:
                signal.signal(signal.SIGTERM, before)
    raise RuntimeError(f"the process of {cell.name} ended with code {child.returncode}")


def answers() -> Send:
    """Where to send messages: JSON lines on stdout, which all else loses to stderr, the log."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def send(message: dict[str, Any]) -> None:
        lines.write(json.dumps(message) + "\n")

    return send


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us decides when to stop
    send = answers()

    def watch() -> None:
        sys.stdin.read()
        os._exit(0)  # whoever started us is gone

    if is_first():
        threading.Thread(target=watch, daemon=True).start()
    from lightning_modules.stopping import listen

    listen(signal.SIGTERM)
    send({"end": serve(json.loads(Path(sys.argv[1]).read_text()), send, apart=False)})


if __name__ == "__main__":
    main()
