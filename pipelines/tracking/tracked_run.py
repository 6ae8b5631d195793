"""A tracked run around the work it is about: opened or gone on with, and closed as the work ended."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pipelines.tracking import runs
from pipelines.tracking.system_metrics import system_metrics
from seqgen.core.errors import StoppedEarly

if TYPE_CHECKING:
    from pipelines.artifacts.history import Row
    from pipelines.cluster.storage import RunStorage
    from seqgen.data.manifest import Manifest
    from seqgen.settings import Recipe


@contextlib.contextmanager
def tracked_run(
    recipe: Recipe, manifest: Manifest, storage: RunStorage, kind: str = "train"
) -> Iterator[str]:
    """The id of the run that `storage` remembers, else of a new one; its last status tells how the block ended.

    It has none where another machine took the run over, and goes on with it.
    Raises OperationalError (server).
    """
    state = storage.state()
    run_id = runs.open_run(recipe, manifest, run_id=state.get("run_id"), name=storage.name, kind=kind)
    status: runs.Status = "FAILED"
    try:
        # The first id stays: by it what is left unsent is found, also where the server gives the run another one.
        storage.keep({"run_id": run_id, "began": state.get("began") or state.get("run_id") or run_id})
        with system_metrics(run_id):
            yield run_id
        status = "FINISHED"
    except (StoppedEarly, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        if storage.is_ours():
            runs.close_run(run_id, status)
        else:
            runs.leave_run(run_id)


@contextlib.contextmanager
def epoch_log(run_id: str) -> Iterator[Callable[[Row], None]]:
    """What to call with every epoch's row; training never waits for the server, only the end of the block does."""
    log = runs.MetricLog(runs.tracking_uri(), run_id)
    patience = 30.0

    def log_epoch(row: Row) -> None:
        log.log({key: value for key, value in row.items() if key not in ("epoch", "step")}, int(row["step"]))

    try:
        yield log_epoch
    except StoppedEarly:
        patience = 5.0  # who stops us may not wait long
        raise
    finally:
        log.close(timeout=patience)
