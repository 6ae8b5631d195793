"""Runs of the tracking server: open and close them, attach files; MetricLog sends metrics to one.

What the verbs want of tracking: the names of the modules beside it that they need are here, too.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipelines.tracking import lineage
from pipelines.tracking.metrics import MetricLog
from pipelines.tracking.server import (
    connect,
    explain,
    reachable,
    server_errors,
    short_retries,
    tracking_uri,
)
from pipelines.tracking.spool import forget_status, spool_status
from seqgen.core.errors import OperationalError, one_line, redact
from seqgen.data.manifest import Manifest
from seqgen.settings import Recipe, flatten

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = [
    "EXPERIMENT",
    "MetricLog",
    "Status",
    "attach",
    "close_run",
    "connect",
    "experiment_id",
    "explain",
    "open_run",
    "redact",
    "runs_with",
    "server_errors",
    "short_retries",
    "tracking_uri",
]

EXPERIMENT = "seqgen"
Status = Literal["FINISHED", "FAILED", "KILLED"]


def experiment_id(client: MlflowClient) -> str:
    """The id of the experiment all runs are in, made if absent. Raises OperationalError if it was deleted."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        try:
            return client.create_experiment(
                EXPERIMENT, artifact_location=_artifact_location(client.tracking_uri)
            )
        except MlflowException:
            experiment = client.get_experiment_by_name(EXPERIMENT)  # another process was first
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise OperationalError(
            f"experiment {EXPERIMENT} is deleted on {redact(client.tracking_uri)}; run "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`"
        )
    return experiment.experiment_id


def _artifact_location(uri: str) -> str | None:
    """Beside a SQLite file (MLflow's own default follows the working directory), else the server's."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///")).with_name("mlartifacts").as_uri()


def open_run(
    recipe: Recipe,
    manifest: Manifest,
    *,
    run_id: str | None = None,
    parent: str | None = None,
    name: str | None = None,
    kind: str = "train",
) -> str:
    """Create a run, or re-open `run_id` if the server knows it, and return its id; it is RUNNING afterwards.

    A new run gets the flattened recipe as parameters and `lineage_tags`; `parent` is the run id of a study.
    Raises OperationalError (server).
    """
    from mlflow.entities import Param
    from mlflow.exceptions import MlflowException

    client = connect()
    if run_id is not None:
        try:
            client.update_run(run_id, status="RUNNING")
            forget_status(run_id)
            return run_id
        except MlflowException as error:
            # It was made on another server, or deleted: the work done so far is not lost with it.
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise OperationalError(explain(client.tracking_uri, error)) from None
            _warn(
                f"run {run_id} is not on {redact(client.tracking_uri)} ({one_line(error)}); a new one is opened"
            )
    tags = lineage.lineage_tags(recipe, manifest) | {lineage.PREFIX + "kind": kind}
    if parent:
        tags["mlflow.parentRunId"] = parent
    run = client.create_run(experiment_id(client), tags=tags, run_name=name or recipe.name)
    try:
        settings = flatten(recipe.model_dump(mode="json", by_alias=True, exclude_none=True))
        parameters = [
            Param(key, value if isinstance(value, str) else json.dumps(value))
            for key, value in settings.items()
        ]
        for start in range(0, len(parameters), 100):  # the server's limit for one call
            client.log_batch(run.info.run_id, params=parameters[start : start + 100])
    except BaseException:  # nobody will know this run: it must not stay RUNNING
        with contextlib.suppress(Exception):
            client.set_terminated(run.info.run_id, "FAILED")
        raise
    return run.info.run_id


def runs_with(recipe: str, metric: str) -> list[Run]:
    """The runs of the recipe of that name that have the metric, newest first. Raises OperationalError (server)."""
    client = connect()
    of_recipe = f"tags.`{lineage.PREFIX}recipe` = '{recipe}' and metrics.`{metric}` >= 0"
    try:
        return list(client.search_runs([experiment_id(client)], of_recipe, order_by=["start_time DESC"]))
    except server_errors() as error:
        raise OperationalError(explain(client.tracking_uri, error)) from None


def close_run(run_id: str, status: Status) -> bool:
    """Set the run's terminal status; the work is done, so a server that is away is a warning, not an error.

    Returns whether the server has it; if not, it is spooled for `python -m pipelines.replay`.
    """
    uri = tracking_uri()
    try:
        if not reachable(uri):
            raise ConnectionError("no answer")
        with short_retries():
            connect(uri).set_terminated(run_id, status)
        return True
    except Exception as error:
        spool_status(run_id, status)
        _warn(f"run {run_id} not marked {status}: {explain(uri, error)}; later: python -m pipelines.replay")
        return False


def attach(run_id: str, path: Path, folder: str) -> bool:
    """Upload a file or a directory's content to `folder` of the run's artifacts ("" = the top).

    Returns whether it arrived; if not, a warning says why and the file remains where it is.
    """
    uri = tracking_uri()
    try:
        if not reachable(uri):
            raise ConnectionError("no answer")
        client = connect(uri)
        upload = client.log_artifacts if path.is_dir() else client.log_artifact
        upload(run_id, str(path), folder or None)
        return True
    except Exception as error:
        _warn(f"{path} not attached to run {run_id}: {explain(uri, error)}")
        return False


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
