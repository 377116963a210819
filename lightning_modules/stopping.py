"""Being asked to stop: training answers between two steps, everything else at once.

A signal outside training raises ``Stopped`` where it arrives, for what is being computed there can
be computed again. During training it is only noted; the step is finished, the checkpoint saved,
and the fit ends like one that has reached its last update.
"""

import signal
from types import FrameType

__all__ = ["Stopped", "asked", "listen", "wait_for_the_step"]


class Stopped(BaseException):
    """Somebody asked this process to stop; what was done so far is saved.

    Not an Exception: it is no failure, and nothing that handles failures may swallow it.
    """


_signals: tuple[int, ...] = ()
_asked: signal.Signals | None = None


def listen(*signals: int) -> None:
    """Let these signals stop the process: at once, or between two steps of a training.

    Must be called from the main thread. What was asked before is forgotten.
    """
    global _signals, _asked
    _signals, _asked = signals, None
    for number in signals:
        signal.signal(number, _raise)


def asked() -> signal.Signals | None:
    """The signal that asked this process to stop, or None."""
    return _asked


def _note(number: int, frame: FrameType | None) -> None:
    global _asked
    if number == signal.SIGINT and _asked == signal.SIGINT:  # a person who will not wait
        raise KeyboardInterrupt
    _asked = signal.Signals(number)


def _raise(number: int, frame: FrameType | None) -> None:
    again = _asked is not None  # must not cut short what the first one began
    _note(number, frame)
    if not again:
        raise Stopped(signal.Signals(number).name)


def wait_for_the_step() -> None:
    """From now on the signals of ``listen`` are only noted; see ``asked``."""
    for number in _signals:
        signal.signal(number, _note)
