"""Sends what was spooled: points of metrics, each once, however often it is asked to; files; how a run ended."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipelines.tracking.server import reachable, secure_environment
from pipelines.tracking.spool import RUNNING, Point, RunSpool

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH = 500  # the server takes at most 1000 metrics in one call


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


def send_spool(client: MlflowClient, spool: RunSpool) -> int:
    """Send what is in the folder of a run that the server knows, and return how many records that were.

    What was sent is removed at once: interrupted, the rest is sent by the next call. A status counts only while the
    run is still RUNNING on the server: one that was gone on with has its own. Call while `spool` is held. Raises
    MLflow's errors; what was not sent is then kept.
    """
    from mlflow.entities import Metric

    count = 0
    points = spool.metrics.read()
    sender = Sender(client.tracking_uri, spool.run_id)
    for start in range(0, len(points), BATCH):
        sender.send(points[start : start + BATCH])
    spool.metrics.replace([])
    measured = spool.measured.read()
    for start in range(0, len(measured), BATCH):  # the server keeps the same point once
        batch = [Metric(*point) for point in measured[start : start + BATCH]]
        client.log_batch(spool.run_id, metrics=batch)
    spool.measured.replace([])
    count += len(points) + len(measured)
    if spool.files.is_dir():
        count += sum(path.is_file() for path in spool.files.rglob("*"))
        client.log_artifacts(spool.run_id, str(spool.files))
        shutil.rmtree(spool.files)
    return count + send_status(client, spool)


def send_status(client: MlflowClient, spool: RunSpool) -> bool:
    """Give the run the status it ended with; KILLED if the process that worked on it is gone. Returns whether it did.

    Call while `spool` is held by no other reason than this. Raises MLflow's errors.
    """
    kept = spool.status()
    if kept is None:
        return False
    status, time = kept
    is_open = client.get_run(spool.run_id).info.status == RUNNING
    if is_open:
        ended = ("KILLED", None) if status == RUNNING else (status, time)
        client.set_terminated(spool.run_id, *ended)
    spool.forget_status()
    return is_open
