"""An evaluation on the tracking server: its metrics and its files at the run of the training."""

from __future__ import annotations

import time
from typing import Any

from pipelines.artifacts.trained_model import TrainedModel
from pipelines.tracking import runs
from seqgen.core.errors import OperationalError
from seqgen.settings import flatten


def publish_evaluation(trained: TrainedModel, metrics: dict[str, Any]) -> None:
    """Log `metrics` as `test/<binarise>/bound` and so on, and attach the directory, to the training's run.

    Raises OperationalError if the server does not take them; the local files are whole by then.
    """
    from mlflow.entities import Metric

    kept = f"the files are kept in {trained.places.evaluate}; run this again when it is up"
    run_id, step, now = trained.run["run_id"], trained.run["epochs"], time.time_ns() // 1_000_000
    values = {key.replace(".", "/"): value for key, value in flatten(metrics).items()}
    try:
        client = runs.connect()
    except OperationalError as error:
        raise OperationalError(f"{error}; {kept}") from None
    try:
        client.log_batch(run_id, [Metric(key, value, now, step) for key, value in values.items()])
    except Exception as error:
        raise OperationalError(f"{runs.explain(client.tracking_uri, error)}; {kept}") from None
    if not runs.attach(run_id, trained.places.evaluate, "evaluate"):
        raise OperationalError(f"run {run_id}: the tracking server did not take the pictures; {kept}")
