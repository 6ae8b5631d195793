"""The experiment all runs are in, and the ids that the server knows runs by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.tracking import lineage
from pipelines.tracking.spool import is_local
from pipelines.tracking.sqlite_file import EXPERIMENT, artifact_location
from seqgen.core.errors import OperationalError, redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOCAL_TAG = lineage.PREFIX + "opened_as"  # the id a run had before the server gave it one


class UnknownRun(OperationalError):
    """A run that was opened without the server, which does not have it yet."""


def experiment_id(client: MlflowClient) -> str:
    """The id of the experiment all runs are in, made if absent. Raises OperationalError if it was deleted."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        uri = client.tracking_uri
        beside = uri.startswith("sqlite:///")
        location = artifact_location(Path(uri.removeprefix("sqlite:///"))) if beside else None
        try:
            return client.create_experiment(EXPERIMENT, artifact_location=location)
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


def find_local(client: MlflowClient, local: str) -> str | None:
    """The server's id of the run that had the id `local`, or None."""
    found = client.search_runs([experiment_id(client)], f"tags.`{LOCAL_TAG}` = '{local}'", max_results=1)
    return found[0].info.run_id if found else None


def id_on_server(client: MlflowClient, run_id: str) -> str:
    """The id that the server knows a run by, which was perhaps opened without it. Raises UnknownRun."""
    if not is_local(run_id):
        return run_id
    known = find_local(client, run_id)
    if known is None:
        raise UnknownRun(f"run {run_id} was opened without the tracking server; send it with: seqgen replay")
    return known
