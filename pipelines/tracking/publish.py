"""What was measured of a model on the tracking server, at the run of its training: metrics, and files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.artifacts.trained_model import TrainedModel
from pipelines.tracking import runs
from seqgen.core.errors import OperationalError
from seqgen.settings import flatten


def publish_evaluation(trained: TrainedModel, metrics: dict[str, Any]) -> None:
    """Log `metrics` as `test/<binarise>/bound` and so on, and attach the directory, to the training's run.

    What a server that is away does not take waits in the spool. Raises OperationalError if it refuses them; the local
    files are whole by then.
    """
    values = {key.replace(".", "/"): value for key, value in flatten(metrics).items()}
    publish_metrics(trained, values, trained.places.evaluate)
    runs.attach(trained.run["run_id"], trained.places.evaluate, "evaluate")


def publish_metrics(trained: TrainedModel, values: Mapping[str, float], path: Path) -> None:
    """Log `values` at the training's run, or spool them. Raises OperationalError if refused; `path` is kept."""
    try:
        runs.log_measured(trained.run["run_id"], values, trained.run["epochs"])
    except OperationalError as error:
        raise OperationalError(f"{error}; the files are kept in {path}") from None
