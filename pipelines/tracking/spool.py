"""Metrics to the tracking server from a background thread: training never waits for it or fails with it."""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipelines.cluster.storage import state_root
from seqgen.core.errors import one_line
from seqgen.core.files import write_bytes

if TYPE_CHECKING:
    from mlflow import MlflowClient

_CAPACITY = 100_000
_BATCH = 500  # the server takes at most 1000 metrics in one call
_PAUSE = 5.0  # seconds between two attempts on a server that is away


class Point(NamedTuple):
    """One value of one metric, with the time it was logged at, so that sent twice it is the same point."""

    key: str
    value: float
    time: int  # milliseconds since 1970
    step: int


def spool_directory() -> Path:
    """Where what the tracking server did not take is kept, a file a run."""
    return state_root() / "spool"


def secure_environment() -> None:
    """Set what our processes want of MLflow before they import it: no pickle, no telemetry, no chatter."""
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for chatty in ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def reachable(uri: str) -> bool:
    """Whether something answers at `uri` within 5 seconds, without retries; a SQLite file always does."""
    if uri.startswith("sqlite:"):
        return True
    import requests

    try:
        return requests.get(uri.rstrip("/") + "/health", timeout=5).status_code < 500
    except requests.RequestException:
        return False


class Sender:
    """Sends points of one run, each (key, step) once; asks the server what it has when a key first occurs."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri = uri
        self.run_id = run_id
        self._client: MlflowClient | None = None
        self._present: set[str] = set()
        self._known: dict[str, set[int]] = {}

    def send(self, points: Iterable[Point]) -> None:
        """Send what the run does not have. Raises ConnectionError (nothing answers) or MLflow's errors."""
        secure_environment()
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        if not reachable(self.uri):
            raise ConnectionError("the server does not answer")
        if self._client is None:
            client = MlflowClient(tracking_uri=self.uri)
            self._present = set(client.get_run(self.run_id).data.metrics)
            self._client = client
        fresh: dict[tuple[str, int], Point] = {}
        for point in points:
            if point.step not in self._steps(point.key):
                fresh.setdefault((point.key, point.step), point)
        if fresh:
            self._client.log_batch(self.run_id, metrics=[Metric(*point) for point in fresh.values()])
        for key, step in fresh:
            self._known[key].add(step)

    def _steps(self, key: str) -> set[int]:
        if key not in self._known:
            assert self._client is not None
            has = self._client.get_metric_history(self.run_id, key) if key in self._present else []
            self._known[key] = {metric.step for metric in has}
        return self._known[key]


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
            path = _append(self._spool, self._sender.run_id, [{"point": point} for point in left])
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
                self._waiting = self._drain(_BATCH)
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


def _append(spool: Path, run_id: str, records: list[dict[str, Any]]) -> Path:
    spool.mkdir(parents=True, exist_ok=True)
    path = spool / f"{run_id}.jsonl"
    with path.open("a") as stream:
        stream.writelines(json.dumps(record) + "\n" for record in records)
    return path


def spool_status(run_id: str, status: str) -> Path:
    """Keep a run's terminal status for `replay`, after the points spooled before it."""
    return _append(spool_directory(), run_id, [{"status": status}])


def forget_status(run_id: str) -> None:
    """Drop the spooled statuses of a run that is gone on with; its points stay."""
    path = spool_directory() / f"{run_id}.jsonl"
    try:
        lines = path.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return
    kept = [line for line in lines if "status" not in json.loads(line)]
    if not kept:
        path.unlink()
    elif len(kept) < len(lines):
        write_bytes(path, "".join(kept).encode())


def replay(uri: str, path: Path) -> int:
    """Send the spooled records of one run, remove the file and return how many there were.

    The last status counts, and only if the run is still RUNNING on the server. Raises ConnectionError if
    nothing answers, else MLflow's errors; the file is then kept.
    """
    from mlflow import MlflowClient

    records = [json.loads(line) for line in path.read_text().splitlines()]
    sender = Sender(uri, path.stem)
    points = [Point(*record["point"]) for record in records if "point" in record]
    for start in range(0, len(points), _BATCH):
        sender.send(points[start : start + _BATCH])
    statuses = [record["status"] for record in records if "status" in record]
    if statuses:
        client = MlflowClient(tracking_uri=uri)
        if client.get_run(path.stem).info.status == "RUNNING":  # else it was gone on with, and has its own
            client.set_terminated(path.stem, statuses[-1])
    path.unlink()
    return len(records)
