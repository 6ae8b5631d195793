"""What was measured of a model on the tracking server, at the run of its training: metrics, and files."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.artifacts.trained_model import TrainedModel
from pipelines.tracking import runs
from seqgen.core.errors import OperationalError
from seqgen.settings import flatten


def publish_evaluation(trained: TrainedModel, metrics: dict[str, Any]) -> None:
    """Log `metrics` as `test/<binarise>/bound` and so on, and attach the directory, to the training's run.

    Raises OperationalError if the server does not take them; the local files are whole by then.
    """
    values = {key.replace(".", "/"): value for key, value in flatten(metrics).items()}
    publish_metrics(trained, values, trained.places.evaluate)
    if not runs.attach(trained.run["run_id"], trained.places.evaluate, "evaluate"):
        raise OperationalError(
            f"run {trained.run['run_id']}: the tracking server did not take the pictures; "
            f"{_kept(trained.places.evaluate)}"
        )


def publish_metrics(trained: TrainedModel, values: Mapping[str, float], path: Path) -> None:
    """Log `values` at the training's run. Raises OperationalError if the server does not take them; `path` is whole."""
    from mlflow.entities import Metric

    step, now = trained.run["epochs"], time.time_ns() // 1_000_000
    try:
        client = runs.connect()
    except OperationalError as error:
        raise OperationalError(f"{error}; {_kept(path)}") from None
    try:
        client.log_batch(
            trained.run["run_id"], [Metric(key, value, now, step) for key, value in values.items()]
        )
    except Exception as error:
        raise OperationalError(f"{runs.explain(client.tracking_uri, error)}; {_kept(path)}") from None


def _kept(path: Path) -> str:
    return f"the files are kept in {path}; run this again when it is up"
