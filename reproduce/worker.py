"""A worker process: reads cells as JSON lines, runs them, answers in JSON lines.

One worker runs many cells, so the imports are paid once. It uses one thread: two workers with one
thread beat one worker with two. It dies with its parent, and its locks with it.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

__all__ = ["main"]


def main() -> None:
    """Serve until the parent closes our input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print goes to the log, not into the protocol

    def send(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")

    inbox: list[str] = []
    ready = threading.Condition()

    def listen() -> None:
        for line in sys.stdin:
            with ready:
                inbox.append(line)
                ready.notify()
        os._exit(0)  # the parent is gone

    threading.Thread(target=listen, daemon=True).start()

    import torch

    from reproduce.runner import run_cell  # seconds of imports, while the parent prints its plan

    torch.set_num_threads(int(os.environ.get("ENTROFLOW_THREADS", "1")))
    send({"ready": os.getpid()})
    while True:
        with ready:
            ready.wait_for(lambda: inbox)
            job = json.loads(inbox.pop(0))
        send({"end": _serve(job, run_cell, send)})


def _serve(job: dict[str, Any], run_cell: Any, send: Any) -> str:
    from reproduce.cells import Cell
    from reproduce.records import Busy, Store
    from reproduce.target import Evaluator

    cell = Cell(**job["cell"])
    evaluators = tuple(Evaluator(**e) for e in job["evaluators"])
    store = Store(Path(job["results"]), cell.tier)
    try:
        return run_cell(cell, evaluators, job["targets"], store, send)
    except Busy:
        return "busy"
    except OSError as error:
        send({"note": f"{cell.name}: {error}: free some space or make results writable"})
        return "failed"


if __name__ == "__main__":
    main()
