"""A worker process: reads cells as JSON lines, runs them, answers in JSON lines.

One worker runs many cells, so the imports are paid once. It uses one thread: two workers with one
thread beat one worker with two. It dies with its parent, and its locks with it. On SIGTERM it
finishes the training step, saves, and leaves.
"""

import gc
import json
import os
import signal
import sys
import threading

from reproduce.onecell import answers, serve
from reproduce.provenance import threads_of_a_worker

__all__ = ["main"]


def main() -> None:
    """Serve until the parent closes our input, or somebody asks us to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    send = answers()
    inbox: list[str] = []
    ready = threading.Condition()

    def read() -> None:
        for line in sys.stdin:
            with ready:
                inbox.append(line)
                ready.notify()
        os._exit(0)  # the parent is gone

    threading.Thread(target=read, daemon=True).start()

    gc.disable()  # seconds of imports make millions of objects, and no garbage
    from lightning_modules.stopping import Stopped, asked, listen

    import torch

    import reproduce.runner  # noqa: F401  (while the parent prints its plan)

    gc.enable()
    gc.freeze()
    torch.set_num_threads(threads_of_a_worker())
    listen(signal.SIGTERM)
    try:
        send({"ready": os.getpid()})
        while asked() is None:
            with ready:
                ready.wait_for(lambda: inbox)
                job = json.loads(inbox.pop(0))
            send({"end": serve(job, send)})
    except Stopped:
        pass  # between two cells
    os._exit(0)  # an orderly end would wait for the thread that reads


if __name__ == "__main__":
    main()
