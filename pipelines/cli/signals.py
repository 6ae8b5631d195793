"""SIGTERM and Ctrl-C: the first one stops in order, a second one ends the process at once.

One stop often comes as two signals: GNU `timeout` signals its child and then the child's group, the stop of a Ray job
every process of `pipelines.retrain`, which hands it on. So what comes within two seconds of the first one is the first.

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
import functools
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from seqgen.core.errors import StoppedEarly

_DVC_TELLS = "DVC_STAGE"  # is in the environment of what DVC starts, and not in its own
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_ONE_STOP = 2.0  # seconds
_stopped_by: signal.Signals | None = None
_stopped_at = 0.0  # by time.monotonic()


def raise_on_stop() -> None:
    """Let SIGTERM and SIGINT raise StoppedEarly in the main thread, once.

    Call it again after `ray.init`, which puts a handler of its own for SIGTERM.
    """
    _install(check_stop)
    if _DVC_TELLS in os.environ:
        _stop_with_dvc()


@functools.cache  # two of them would be a second signal
def _stop_with_dvc() -> None:
    """Let the end of DVC be a SIGTERM: it hands on none that it gets, and would leave us working for nobody."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError, AttributeError):  # Linux alone has pidfd_open
        # Not always the parent: some shells stay between DVC and the command.
        ancestors = psutil.Process().parents()
        dvc = next((process for process in ancestors if _DVC_TELLS not in process.environ()), None)
        if dvc is not None:
            ended = os.pidfd_open(dvc.pid)
            threading.Thread(target=_stop_after, args=(ended,), name="dvc-ended", daemon=True).start()


def _stop_after(ended: int) -> None:
    """Stop this process once the process of the file descriptor has ended, unless what ended it has stopped us, too."""
    select.select([ended], [], [])
    if _stopped_by is None:
        os.kill(os.getpid(), signal.SIGTERM)


def check_stop() -> None:
    """Raise StoppedEarly if a signal has come; native code it interrupted may have swallowed the exception."""
    if _stopped_by is not None:
        raise StoppedEarly(f"stopped by {_stopped_by.name}")


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


@contextlib.contextmanager
def stop_afterwards() -> Iterator[None]:
    """Let a first signal that comes in this block take effect at its end: for what is short and should be whole."""
    global _stopped_by
    if _stopped_by is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    came = threading.Event()
    try:
        with on_stop(came.set):
            yield
    finally:
        if came.is_set() and _stopped_by is not None:
            number, _stopped_by = _stopped_by, None  # it comes now
            signal.raise_signal(number)


def _install(callback: Callable[[], None]) -> None:
    came = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal came
        global _stopped_by, _stopped_at
        now = time.monotonic()
        if _stopped_by is not None and now - _stopped_at < _ONE_STOP:
            return
        if came:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        came, _stopped_by, _stopped_at = True, signal.Signals(number), now
        callback()

    for number in _STOPPING:
        signal.signal(number, stop)
