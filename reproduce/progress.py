"""Progress of a run: bars on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Any

__all__ = ["Progress", "duration"]

_EVERY_S = 15.0  # between two plain lines


class Progress:
    """Cells done, time left, and what each worker does: its cell, update and loss."""

    def __init__(
        self, total: int, done: int, weights: Mapping[str, float], plain: bool | None = None
    ) -> None:
        """``weights``: how long each cell that will run takes, in any unit."""
        self.total, self.done, self.failed = total, done, 0
        self.weights, self.finished, self.begun = weights, 0.0, time.monotonic()
        self.now: dict[int, dict[str, Any]] = {}
        self.extra = ""  # what else to say beside the counts
        self.plain = not sys.stdout.isatty() if plain is None else plain
        self._last_line = time.monotonic()
        self._bars: Any = None

    def __enter__(self) -> "Progress":
        if not self.plain:
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bars

            self._bars = Bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}", markup=False),
            )
            self._bars.start()
            self._all = self._bars.add_task("cells", total=self.total, text="")
            self._rows: dict[int, Any] = {}
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def start(self, worker: int, cell: str, to_measure: int = 1) -> None:
        self.now[worker] = {"cell": cell, "to_measure": to_measure}
        self._show(worker)

    def update(self, worker: int, message: dict[str, Any]) -> None:
        """A worker's message: ``step, of, loss`` in training, ``stage, measured`` afterwards."""
        now = self.now.setdefault(worker, {"cell": "?"})
        if "stage" in message:
            now.pop("measured", None)
        now["measures"] = now.get("measures", 0) + ("measured" in message)
        now.update(message)
        self._show(worker)

    def finish(self, worker: int, status: str) -> None:
        self.done += 1
        self.failed += status == "failed"
        self.finished += self.weights.get(self.now.pop(worker, {}).get("cell", ""), 0.0)
        self._show(worker)

    def note(self, text: str) -> None:
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def tick(self) -> None:
        self._show()

    def eta(self) -> float | None:
        """Seconds left, or None before anything is known."""
        worked = self.finished + sum(
            self.weights.get(m["cell"], 0.0) * _share(m) for m in self.now.values()
        )
        whole = sum(self.weights.values())
        if worked <= 0 or worked < 0.03 * whole:
            return None
        return (time.monotonic() - self.begun) * (whole - worked) / worked

    def _show(self, worker: int | None = None) -> None:
        left = self.eta()
        head = f"{self.done}/{self.total} cells"
        head += f", {self.failed} failed" if self.failed else ""
        head += f", about {duration(left)} left" if left and self.done < self.total else ""
        head += f", {self.extra}" if self.extra and self.done < self.total else ""
        if self._bars is not None:
            self._bars.update(self._all, completed=self.done, text=head)
            if worker is not None:
                row = self._rows.get(worker)
                if row is None:
                    row = self._rows[worker] = self._bars.add_task("", total=1, text="")
                m = self.now.get(worker)
                self._bars.update(
                    row,
                    description=m["cell"] if m else "",
                    total=m.get("of", 1) if m else 1,
                    completed=m.get("step", 0) if m else 0,
                    text=_doing(m) if m else "",
                    visible=m is not None,
                )
        elif time.monotonic() - self._last_line > _EVERY_S or self.done == self.total:
            self._last_line = time.monotonic()
            each = "; ".join(f"{m['cell']} {_doing(m)}".strip() for m in self.now.values())
            print(f"{head}{': ' + each if each else ''}", flush=True)


def _share(m: dict[str, Any]) -> float:
    """How much of a cell is done: training counts half, measuring half."""
    trained = m["step"] / m["of"] if m.get("of") else 0.0
    measured = m.get("measures", 0) / max(m.get("to_measure", 1), 1)
    return 0.5 * max(trained, float("stage" in m)) + 0.5 * min(measured, 1.0)


def _doing(m: dict[str, Any]) -> str:
    if "stage" in m:
        return f"{m['stage']}" + (f" at update {m['measured']}" if "measured" in m else "")
    if "step" in m:
        return f"update {m['step']}/{m['of']}, loss {m['loss']:.4g}"
    return ""


def duration(seconds: float) -> str:
    """Whole units a person reads: ``40 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
