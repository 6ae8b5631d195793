"""Metrics to the tracking server from a background thread: training never waits for it or fails with it."""

from __future__ import annotations

import queue
import sys
import threading
import time

from pipelines.tracking.sender import BATCH, Point, Sender
from pipelines.tracking.spool import append, spool_directory
from seqgen.core.errors import one_line

_CAPACITY = 100_000
_PAUSE = 5.0  # seconds between two attempts on a server that is away


class MetricLog:
    """Logs metrics of one run; `log` costs microseconds whatever the server does.

    While the server is away points wait in memory (at most 100,000, then the newest are dropped with one
    warning); what is left at `close` is written to the spool, for `python -m pipelines.replay`.
    After a restart from an earlier checkpoint the steps the run already has are not sent again.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        """`uri` is a tracking URI, `run_id` an open run of it. Nothing is sent or imported here."""
        self._sender = Sender(uri, run_id)
        self._spool = spool_directory()
        self._queue: queue.Queue[Point] = queue.Queue(_CAPACITY)
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._warned: set[str] = set()
        self._waiting: list[Point] = []
        self._thread = threading.Thread(target=self._work, name="metric-log", daemon=True)
        self._thread.start()

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Queue `metrics` of `step`. Never blocks, never raises."""
        now = time.time_ns() // 1_000_000
        try:
            for key, value in metrics.items():
                self._queue.put_nowait(Point(key, float(value), now, int(step)))
        except queue.Full:
            self._warn("full", "the tracking server is too slow or away: metrics are dropped from here on")
        except (TypeError, ValueError) as error:
            self._warn("value", f"metrics of step {step} not logged: {error}")

    def close(self, timeout: float = 30) -> bool:
        """Send the rest, waiting at most `timeout` seconds; spool what the server did not take. Never raises.

        Returns whether the server has everything that was logged.
        """
        self._deadline = time.monotonic() + timeout
        self._closing.set()
        self._thread.join(timeout)
        left = [*self._waiting, *self._drain(_CAPACITY)]
        if not left:
            return True
        try:
            path = append(self._spool, self._sender.run_id, [{"point": point} for point in left])
            self._warn(
                "spool", f"{len(left)} metrics kept in {path}; send them with: python -m pipelines.replay"
            )
        except OSError as error:
            self._warn("spool", f"{len(left)} metrics lost: the server is away and {self._spool}: {error}")
        return False

    def _work(self) -> None:
        while True:
            closing = self._closing.is_set()
            if not self._waiting:
                self._waiting = self._drain(BATCH)
            if not self._waiting:
                if closing:
                    return
                self._closing.wait(0.2)
                continue
            try:
                self._sender.send(self._waiting)
                self._waiting = []
                self._warned.discard("away")
            except Exception as error:
                line = one_line(error)
                if _is_final(error):
                    self._warn("refused", f"the tracking server refuses metrics of this run: {line}")
                    return
                self._warn("away", f"the tracking server is away ({line}); metrics wait, training goes on")
                if closing and time.monotonic() + _PAUSE > self._deadline:
                    return
                time.sleep(_PAUSE) if closing else self._closing.wait(_PAUSE)

    def _drain(self, most: int) -> list[Point]:
        points: list[Point] = []
        while len(points) < most:
            try:
                points.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return points

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            print(f"warning: {text}", file=sys.stderr, flush=True)


def _is_final(error: Exception) -> bool:
    """Whether trying again cannot help: the server's 4xx, but for time-out and rate limit."""
    status = getattr(error, "get_http_status_code", lambda: 500)()
    return 400 <= status < 500 and status not in (408, 429)
