"""SIGTERM and Ctrl-C: the first one stops in order, a second one ends the process at once.

The only place that installs handlers. A verb calls `raise_on_stop()`: the signal then comes as an exception, and
every `finally` runs. Where an exception would do harm, `with on_stop(callback):` calls instead, and what was
installed before is put back afterwards. So a search, whose Tune saves its state before it ends, only asks it to:

    with on_stop(log.stop.set):
        analysis = ray_tune.run(...)
    if log.stop.is_set():
        raise StoppedEarly("")
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from seqgen.core.errors import StoppedEarly

_PR_SET_PDEATHSIG = 1
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_stopped_by: str | None = None


def raise_on_stop() -> None:
    """Let SIGTERM and SIGINT raise StoppedEarly in the main thread, once.

    Call it again after `ray.init`, which puts a handler of its own for SIGTERM.
    """
    _install(check_stop)
    if "DVC_STAGE" in os.environ:
        _stop_with_parent()


def _stop_with_parent() -> None:
    """Let the end of the parent be a SIGTERM: DVC hands on none that it gets, and would leave us working for nobody."""
    with contextlib.suppress(OSError, AttributeError):  # Linux alone has it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def check_stop() -> None:
    """Raise StoppedEarly if a signal has come; native code it interrupted may have swallowed the exception."""
    if _stopped_by is not None:
        raise StoppedEarly(f"stopped by {_stopped_by}")


@contextlib.contextmanager
def on_stop(callback: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM and SIGINT call `callback` in the main thread, once, in this block."""
    before = {number: signal.getsignal(number) for number in _STOPPING}
    _install(callback)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _install(callback: Callable[[], None]) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        global _stopped_by
        for stopping in _STOPPING:
            signal.signal(stopping, signal.SIG_DFL)
        _stopped_by = signal.Signals(number).name
        callback()

    for number in _STOPPING:
        signal.signal(number, stop)
