"""Sends points of metrics to a run, each once, however often it is asked to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from pipelines.tracking.server import reachable, secure_environment

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH = 500  # the server takes at most 1000 metrics in one call


class Point(NamedTuple):
    """One value of one metric, with the time it was logged at, so that sent twice it is the same point."""

    key: str
    value: float
    time: int  # milliseconds since 1970
    step: int


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
