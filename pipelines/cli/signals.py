"""SIGTERM and Ctrl-C as an exception, so that every `finally` runs; a second one ends the process at once."""

from __future__ import annotations

import signal
from types import FrameType

from seqgen.core.errors import StoppedEarly

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_stopped_by: str | None = None


def raise_on_stop() -> None:
    """Let SIGTERM and SIGINT raise StoppedEarly in the main thread, once.

    Call it again after `ray.init`, which puts a handler of its own for SIGTERM.
    """
    for number in _STOPPING:
        signal.signal(number, _stop)


def check_stop() -> None:
    """Raise StoppedEarly if a signal has come; native code it interrupted may have swallowed the exception."""
    if _stopped_by is not None:
        raise StoppedEarly(f"stopped by {_stopped_by}")


def _stop(number: int, frame: FrameType | None) -> None:
    global _stopped_by
    for stopping in _STOPPING:
        signal.signal(stopping, signal.SIG_DFL)
    _stopped_by = signal.Signals(number).name
    check_stop()
