"""Opening runs: at the server or, without it, in the spool; going on with them; closing those of killed processes."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipelines.tracking import lineage
from pipelines.tracking.experiment import LOCAL_TAG, UnknownRun, experiment_id, find_local, id_on_server
from pipelines.tracking.metrics import REPLAY
from pipelines.tracking.sender import send_spool, send_status
from pipelines.tracking.server import (
    Away,
    connect,
    explain,
    failure,
    required,
    server_errors,
    status_of,
    warn,
)
from pipelines.tracking.spool import PATIENCE, RUNNING, RunSpool, is_local, spool_directory, spools
from seqgen.core.errors import SeqgenError, one_line, redact
from seqgen.core.locks import Taken
from seqgen.data.manifest import Manifest
from seqgen.settings import Recipe, flatten

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

_PARENT = "mlflow.parentRunId"


def check() -> None:
    """What a verb that tracks begins with: a server that is away is found before the work, not after it.

    Runs that killed processes of this project left RUNNING are closed. Raises what `connect` does; but where
    tracking is not required (SEQGEN_TRACKING_REQUIRED) a server that is away is a warning.
    """
    if (client := _connect_if_required()) is not None:
        _close_left(client)


def open_run(
    recipe: Recipe,
    manifest: Manifest,
    *,
    run_id: str | None = None,
    parent: str | None = None,
    name: str | None = None,
    kind: str = "train",
    tags: Mapping[str, str] | None = None,
) -> str:
    """Create a run, or re-open `run_id` if the server knows it, and return its id; it is RUNNING until `close_run`.

    A new run gets the flattened recipe as parameters, `lineage_tags` and `tags`; `parent` is the run id of a study.
    Where tracking is not required and the server is away, the id is a local one of a run in the spool.
    Raises OperationalError (server).
    """
    client = _connect_if_required()
    if client is not None:
        _close_left(client, but=run_id)
    if run_id is not None and (opened := _open_again(client, run_id)) is not None:
        return opened
    settings = flatten(recipe.model_dump(mode="json", by_alias=True, exclude_none=True))
    description = {
        "name": name or recipe.name,
        "parent": parent,
        "start_time": time.time_ns() // 1_000_000,
        "tags": {**lineage.lineage_tags(recipe, manifest), lineage.PREFIX + "kind": kind, **(tags or {})},
        "parameters": {
            key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()
        },
        "dataset": lineage.dataset(manifest),
    }
    # Written down before the server hears of it: whenever we are killed, the run is found again.
    spool = RunSpool.new(description)
    if client is not None:
        _open(client, spool, anew=True)
    return spool.run_id


def _open(client: MlflowClient, spool: RunSpool, *, anew: bool = False) -> None:
    """`_create`, for a run that this process works on: it fails with the opening, unless tracking is not required."""
    try:
        _create(client, spool, anew=anew)
    except BaseException as error:
        ours = failure(client.tracking_uri, error) if isinstance(error, Exception) else error
        if isinstance(ours, Away) and not required():
            warn(f"{ours}; what is tracked is kept in {spool.path}")
            return
        # Nobody will know a new run: it must not stay RUNNING. Where this does not succeed `_close_left` will.
        if anew and not is_local(spool.run_id):
            with contextlib.suppress(Exception):
                client.set_terminated(spool.run_id, "FAILED")
                spool.discard()
        spool.end()
        raise ours from None


def _connect_if_required() -> MlflowClient | None:
    """The server's client, or None if it is away and need not be there."""
    try:
        return connect()
    except Away as away:
        if required():
            raise
        warn(f"{away}. SEQGEN_TRACKING_REQUIRED=false: what is tracked is kept in {spool_directory()}")
        return None


def _open_again(client: MlflowClient | None, run_id: str) -> str | None:
    """Go on with a run, and return its id, by now perhaps the server's; None if it is unknown."""
    from mlflow.exceptions import MlflowException, RestException

    if not RunSpool.of(run_id).sound() and is_local(run_id):
        return None  # how it is to be opened is lost
    spool = RunSpool.of(run_id)
    if client is None:
        return _begin(spool) if not is_local(run_id) or spool.description() else None
    if is_local(run_id) and spool.description():
        spool.begin()
        _open(client, spool)
        return spool.run_id
    try:
        run_id = id_on_server(client, run_id)
        known = RunSpool.of(run_id)
        with known.hold(PATIENCE):  # or who closes runs of killed processes could make it KILLED after this
            client.update_run(run_id, status=RUNNING)
            return _begin(known)
    except MlflowException as error:
        # It was made on another server, or deleted: the work done so far is not lost with it. But a web page that
        # says 404 is no word of the server's.
        theirs = isinstance(error, RestException) or client.tracking_uri.startswith("sqlite:")
        gone = error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
        if theirs and gone:
            _warn_unknown(client, run_id, one_line(error))
            return None
        ours = failure(client.tracking_uri, error)
        if required() or not isinstance(ours, Away):
            raise ours from None
        warn(f"{ours}; what is tracked is kept in {spool_directory()}")
    except UnknownRun as error:
        _warn_unknown(client, run_id, str(error))
        return None
    return _begin(RunSpool.of(run_id))


def _warn_unknown(client: MlflowClient, run_id: str, reason: str) -> None:
    warn(f"run {run_id} is not on {redact(client.tracking_uri)} ({reason}); a new one is opened")


def _begin(spool: RunSpool) -> str:
    spool.begin()
    return spool.run_id


def _create(client: MlflowClient, spool: RunSpool, *, anew: bool = False) -> None:
    """Open the run that `spool` describes, or what the server lacks of it after an attempt that was interrupted.

    Call while it is held; it has the server's id afterwards. Raises MLflow's errors.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    description = spool.description()
    assert description is not None
    if is_local(spool.run_id):
        known = None if anew else find_local(client, spool.run_id)
        if known is None:
            tags = description["tags"] | {LOCAL_TAG: spool.run_id}
            if parent := description["parent"]:
                tags[_PARENT] = id_on_server(client, parent)
            run = client.create_run(
                experiment_id(client), description["start_time"], tags, run_name=description["name"]
            )
            known = run.info.run_id
        spool.rename(known)
    parameters = [Param(key, value) for key, value in description["parameters"].items()]
    for start in range(0, len(parameters), 100):  # the server's limit for one call
        client.log_batch(spool.run_id, params=parameters[start : start + 100])
    if dataset := description.get("dataset"):  # a spool of before has none
        context = InputTag("mlflow.data.context", "training")
        _log_input(client, spool.run_id, DatasetInput(Dataset(**dataset), [context]))
    spool.opened()


def _log_input(client: MlflowClient, run_id: str, dataset: DatasetInput) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.log_inputs(run_id, [dataset])
    except MlflowException as error:
        if error.error_code != "BAD_REQUEST":
            raise
        client.log_inputs(run_id, [dataset])  # of two runs that are a set's first the server refuses one


def children(parent: str, tag: str) -> dict[str, str]:
    """The ids of the runs below a study, by their value of `tag`; also of those in the spool.

    Raises OperationalError (server), unless tracking is not required.
    """
    found = {}
    for spool in spools():
        description = spool.description() or {}
        if description.get("parent") == parent:
            found[description["tags"].get(tag, "")] = spool.run_id
    client = None if is_local(parent) else _connect_if_required()
    if client is not None:
        below = client.search_runs([experiment_id(client)], f"tags.`{_PARENT}` = '{parent}'")
        found |= {run.data.tags.get(tag, ""): run.info.run_id for run in below}
    return found


def replay(client: MlflowClient, spool: RunSpool) -> int:
    """Send what is in the spool of a run nobody works on, and return how many records that were.

    Interrupted, the rest is sent by the next call, and nothing twice. Raises Taken, MLflow's errors, OperationalError.
    """
    with spool.hold():
        if spool.description():
            _create(client, spool)
        elif is_local(spool.run_id):  # kept after the server had got the run, under its first id
            spool.rename(id_on_server(client, spool.run_id))
        return send_spool(client, spool)


def why_kept(client: MlflowClient, spool: RunSpool, error: Exception) -> str:
    """Why the spool of a run was not sent, in a line."""
    if status_of(error) == 404:
        return (
            f"it is not on {redact(client.tracking_uri)}: set MLFLOW_TRACKING_URI to its own server, or, if it was "
            f"deleted, remove {spool.path}"
        )
    return explain(client.tracking_uri, error)


def _close_left(client: MlflowClient, but: str | None = None) -> None:
    """Close the runs that killed processes left RUNNING; only theirs: who works on a run holds its spool.

    The run `but` is about to be gone on with. Trouble of the server is a warning.
    """
    waiting = []
    errors: tuple[type[Exception], ...] = (OSError, SeqgenError, *server_errors())
    for spool in spools():
        if spool.is_ours() or spool.run_id == but:
            continue
        try:
            with spool.hold():
                _close_one(client, spool)
                if not spool.is_empty():
                    waiting.append(spool.run_id)
        except Taken:
            continue
        except errors as error:
            warn(f"run {spool.run_id}, left by another process: {why_kept(client, spool, error)}")
    if waiting:
        warn(f"{len(waiting)} runs have records that the server lacks; send them with: {REPLAY}")


def _close_one(client: MlflowClient, spool: RunSpool) -> None:
    kept = spool.status()
    if kept is None:
        return
    if is_local(spool.run_id):
        if (known := find_local(client, spool.run_id)) is not None:
            spool.rename(known)
        elif spool.has_records():
            if kept[0] == RUNNING:
                spool.keep_status("KILLED")
            return
        else:  # it was killed before it did anything
            spool.discard()
            return
    if send_status(client, spool) and kept[0] == RUNNING:
        warn(f"run {spool.run_id} was left by a process that was killed: it is KILLED now")
