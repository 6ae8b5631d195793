"""Metrics to the tracking server from a background thread: training never waits for it or fails with it."""

from __future__ import annotations

import threading
import time
from collections import deque
from itertools import islice

from pipelines.tracking.sender import BATCH, Sender
from pipelines.tracking.server import explain, is_final, warn
from pipelines.tracking.spool import Journal, Point, RunSpool, is_local
from seqgen.core.errors import one_line
from seqgen.core.locks import Taken

REPLAY = "seqgen replay"
_CAPACITY = 100_000  # points that may wait
_PAUSE = 5.0  # seconds between two attempts on a server that is away


class MetricLog:
    """Logs metrics of one run; `log` costs microseconds whatever the server does.

    Points wait in the run's spool (`pipelines.tracking.spool`) until the server has them, at most 100,000, then the
    newest are dropped with one warning. What waits when the process ends, even by SIGKILL, is sent by the next
    MetricLog of the run or by `seqgen replay`. Steps that the run has are not sent again.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        """`uri` is a tracking URI, `run_id` an open run of it. Nothing is sent or imported here."""
        self._uri = uri
        self._spool = RunSpool.of(run_id)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._warned: set[str] = set()
        self._journal: Journal | None = None  # None: the disk does not take it
        self._waiting: deque[Point] = deque()
        self._lines = 0
        self._hold()
        self._thread: threading.Thread | None = None
        if not is_local(run_id):
            self._sender = Sender(uri, run_id)
            self._thread = threading.Thread(target=self._work, name="metric-log", daemon=True)
            self._thread.start()

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Take `metrics` of `step`. Never waits for the server, never raises."""
        now = time.time_ns() // 1_000_000
        try:
            points = [Point(key, float(value), now, int(step)) for key, value in metrics.items()]
        except (TypeError, ValueError) as error:
            self._warn("value", f"metrics of step {step} not logged: {error}")
            return
        with self._lock:
            if len(self._waiting) + len(points) > _CAPACITY:
                self._warn(
                    "full", "the tracking server is too slow or away: metrics are dropped from here on"
                )
                return
            self._waiting.extend(points)
            self._keep(points)

    def close(self, timeout: float = 30) -> bool:
        """Send the rest, waiting at most `timeout` seconds; what is left stays in the spool. Never raises.

        Returns whether the server has everything that was logged.
        """
        self._deadline = time.monotonic() + timeout
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout)
        with self._lock:
            left, journal, self._journal = list(self._waiting), self._journal, None
        if left:
            self._leave(left)
        if journal is not None:
            self._spool.release()
        return not left

    def _hold(self) -> None:
        """Take over the run's spool, with the points that a killed process left in it."""
        try:
            self._spool.acquire()
        except (Taken, OSError) as error:
            self._warn("disk", f"metrics wait in memory only: {error}")
            return
        self._journal = self._spool.metrics
        self._waiting.extend(self._journal.read())
        self._lines = len(self._waiting)

    def _keep(self, points: list[Point]) -> None:
        if self._journal is None:
            return
        try:
            self._journal.append(points)
            self._lines += len(points)
        except OSError as error:
            self._warn("disk", f"metrics wait in memory only: {self._journal.path}: {error}")

    def _leave(self, points: list[Point]) -> None:
        path = self._spool.metrics.path
        try:
            self._spool.metrics.replace(points)
            self._warn("spool", f"{len(points)} metrics kept in {path}; send them with: {REPLAY}")
        except OSError as error:
            self._warn("spool", f"{len(points)} metrics lost: the server is away, and {path}: {error}")

    def _work(self) -> None:
        while True:
            closing = self._closing.is_set()
            with self._lock:
                batch = list(islice(self._waiting, BATCH))
            if not batch:
                if closing:
                    return
                self._closing.wait(0.2)
                continue
            try:
                self._sender.send(batch)
                self._warned.discard("away")
                if not self._sent(len(batch)):
                    return
            except Exception as error:
                if is_final(error):
                    self._warn(
                        "refused", f"the tracking server refuses metrics of this run: {one_line(error)}"
                    )
                    return
                self._warn("away", f"{explain(self._uri, error)}; metrics wait, training goes on")
                if closing and time.monotonic() + _PAUSE > self._deadline:
                    return
                time.sleep(_PAUSE) if closing else self._closing.wait(_PAUSE)

    def _sent(self, count: int) -> bool:
        """Forget the `count` first points; False: closed meanwhile, and the files are another's."""
        with self._lock:
            if self._closing.is_set() and time.monotonic() > self._deadline:
                return False
            for _ in range(count):
                self._waiting.popleft()
            # A journal with more lines sent than waiting is written anew, seldom, or at the end of a burst.
            if self._journal is not None and (not self._waiting or self._lines > 2 * _CAPACITY):
                try:
                    self._journal.replace(list(self._waiting))
                    self._lines = len(self._waiting)
                except OSError as error:
                    self._warn("disk", f"{self._journal.path}: {error}")
            return True

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warn(text)
