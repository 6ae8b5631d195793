"""Runs of the tracking server: open and close them, attach files; MetricLog sends metrics to one.

What the verbs want of tracking: the names of the modules beside it that they need are here, too.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines.cli.signals import stop_afterwards
from pipelines.tracking import lineage
from pipelines.tracking.experiment import experiment_id, id_on_server
from pipelines.tracking.metrics import REPLAY, MetricLog
from pipelines.tracking.opening import check, children, open_run, replay, why_kept
from pipelines.tracking.server import (
    Away,
    connect,
    explain,
    failure,
    is_final,
    reachable,
    server_errors,
    short_retries,
    tracking_uri,
    warn,
)
from pipelines.tracking.spool import Point, RunSpool, is_local
from pipelines.tracking.sqlite_file import EXPERIMENT
from seqgen.core.errors import OperationalError, redact
from seqgen.core.locks import Taken

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = [
    "EXPERIMENT",
    "MetricLog",
    "Status",
    "attach",
    "check",
    "children",
    "close_run",
    "connect",
    "experiment_id",
    "explain",
    "failure",
    "id_on_server",
    "leave_run",
    "log_measured",
    "open_run",
    "redact",
    "replay",
    "runs_with",
    "server_errors",
    "short_retries",
    "tracking_uri",
    "why_kept",
]

Status = Literal["FINISHED", "FAILED", "KILLED"]
_LATER = f"send it with: {REPLAY}"
_PATIENCE = 10.0  # seconds for another process that sends a run's spool


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

    Returns whether the server has it; if not, it is spooled for `seqgen replay`.
    """
    spool, uri = RunSpool.of(run_id), tracking_uri()
    with stop_afterwards():  # the status is half a minute's work at most
        try:
            _on_server(uri, run_id, lambda client, known: client.set_terminated(known, status))
            spool.forget_status()
            return True
        except Exception as error:
            what = f"run {run_id} not marked {status} on the server"
            _spool(spool, what, explain(uri, error), lambda: spool.keep_status(status))
            return False
        finally:
            spool.end()


def leave_run(run_id: str) -> None:
    """Work no longer on the run, which another machine goes on with: its status is not ours to set."""
    spool = RunSpool.of(run_id)
    spool.forget_status()
    spool.end()


def attach(run_id: str, path: Path, folder: str) -> bool:
    """Upload a file or a directory's content to `folder` of the run's artifacts ("" = the top).

    Returns whether it arrived; if not, a warning says why, and a copy is spooled for `seqgen replay`.
    """

    def upload(client: MlflowClient, known: str) -> None:
        log = client.log_artifacts if path.is_dir() else client.log_artifact
        log(known, str(path), folder or None)

    uri = tracking_uri()
    try:
        _on_server(uri, run_id, upload, short=False)
        return True
    except Exception as error:
        spool = RunSpool.of(run_id)
        what = f"{path} not attached to run {run_id}"
        _spool(spool, what, explain(uri, error), lambda: spool.keep_files(path, folder))
        return False


def log_measured(run_id: str, values: Mapping[str, float], step: int) -> bool:
    """Log what was measured of a trained model at the run of its training.

    Returns whether the server has it; for one that is away the values are spooled, with a warning. Raises
    OperationalError if the server refuses them.
    """
    now = time.time_ns() // 1_000_000
    points = [Point(key, value, now, step) for key, value in values.items()]

    def log(client: MlflowClient, known: str) -> None:
        from mlflow.entities import Metric

        client.log_batch(known, [Metric(*point) for point in points])

    uri = tracking_uri()
    try:
        _on_server(uri, run_id, log)
        return True
    except Exception as error:
        if is_final(error):
            raise OperationalError(explain(uri, error)) from None
        spool = RunSpool.of(run_id)
        what = f"{len(points)} values not logged to run {run_id}"
        _spool(spool, what, explain(uri, error), lambda: spool.measured.append(points))
        return False


def _on_server(
    uri: str, run_id: str, action: Callable[[MlflowClient, str], Any], *, short: bool = True
) -> None:
    """Call `action` with a client and the id that the server knows the run by; `short`: at most half a minute."""
    if is_local(run_id) and RunSpool.of(run_id).description():
        raise Away("it was opened without the tracking server")
    if not reachable(uri):
        raise ConnectionError("no answer")
    with short_retries() if short else contextlib.nullcontext():
        client = connect(uri)
        action(client, id_on_server(client, run_id))


def _spool(spool: RunSpool, what: str, reason: str, keep: Callable[[], Any]) -> None:
    try:
        with spool.hold(_PATIENCE):
            keep()
        warn(f"{what}: {reason}; {_LATER}")
    except (Taken, OSError) as error:
        warn(f"{what}: {reason}; nor is it kept in the spool: {error}")
