"""What a worker of a Ray Train run does: join, find its place in the run, train, save, tell the driver."""

from __future__ import annotations

import contextlib
import math
import os
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from pipelines.artifacts import gallery
from pipelines.artifacts.gallery import Gallery, read_gallery
from pipelines.artifacts.history import FILE_NAME, Row, read_history, write_history
from pipelines.artifacts.published import opened
from pipelines.cluster.checkpoints import Checkpoints, Uploads
from pipelines.cluster.ending import held_out_bound, is_saved
from pipelines.cluster.failures import in_words, kind_of, may_be_mended
from pipelines.cluster.line import Pulse
from pipelines.cluster.storage import RunStorage
from pipelines.storage import open_store
from pipelines.storage.lease import Lease, Lost
from seqgen.core.errors import BadInput, NumericalError, OperationalError, SeqgenError, StoppedEarly
from seqgen.core.machine import cores
from seqgen.settings import Recipe, build_recipe
from seqgen.training.callbacks import Callback, SaveFn, Skipped, Wish

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from seqgen.training import Position, ProcessGroup, Progress


class Task(TypedDict):
    """What the driver hands to every worker. Holds no credentials."""

    recipe: dict[str, Any]
    shards: str
    digests: dict[str, str]
    initial: str | None
    storage: str
    run: str
    lease: Lease | None
    exchange: ActorHandle
    upload_seconds: float  # for what is not yet in storage at the end
    profile: bool


class News(TypedDict):
    """What the first worker tells the driver."""

    kind: Literal["resumed", "epoch", "skipped", "say"]
    rows: list[Row]  # of a resumed run, or one new one
    text: str
    skipped: dict[str, Any]


class Outcome(TypedDict):
    """How a worker ended: an error that a restart would only repeat is handed over, not raised.

    One that is not the same on all ranks is told at once as well (`Pulse.fail`): the others wait for this one.
    """

    error: str | None
    kind: str


def train_worker(task: dict[str, Any]) -> Outcome:
    """The training loop of one worker; `task` is a `Task`. Raises what a restart may mend."""
    import ray
    import ray.train.torch

    from seqgen import training

    group = training.ProcessGroup.joined(ray.train.torch.get_device())
    node = f"{os.uname().nodename} ({ray.get_runtime_context().get_node_id()})"
    pulse = Pulse(task["exchange"], group.rank, group.size, node)
    try:
        return _train(build_recipe(task["recipe"], "recipe"), cast(Task, task), group, pulse)
    except Exception as error:
        if may_be_mended(error):
            raise
        pulse.end()
        traceback.print_exception(error)  # into Ray's log of this worker
        kind, text = kind_of(error), in_words(error, task["recipe"])
        pulse.fail(kind, text)
        return {"error": text, "kind": kind.__name__}


def _train(recipe: Recipe, task: Task, group: ProcessGroup, pulse: Pulse) -> Outcome:
    """Raises, of what is not the same on all ranks, whatever it is."""
    import ray.train

    from seqgen import training
    from seqgen.training.profile import Profile

    store, keep = open_store(task["storage"]), recipe.train.keep_checkpoints
    checkpoints = Checkpoints(store, task["run"], keep, task["lease"])
    overseer = _Overseer(recipe, checkpoints, pulse, task, group.rank == 0)
    callbacks: list[Callback] = [overseer]
    if task["profile"] and group.rank == 0:
        callbacks.append(Profile(overseer.profiled, group.device))
    try:
        with _last_checkpoint(checkpoints, group, overseer) as resume:
            training.run(
                recipe,
                opened(task["shards"]),
                group=group,
                threads=max(1, cores() // ray.train.get_context().get_local_world_size()),
                initial=Path(task["initial"]) if task["initial"] else None,
                resume=resume,
                callbacks=callbacks,
                digests=task["digests"],
            )
        pulse.end()
        overseer.finish()
    except StoppedEarly as stopped:
        pulse.end()
        return overseer.stopped(stopped)
    except _Final as error:
        return {"error": str(error), "kind": "OperationalError"}
    except Exception as error:
        if may_be_mended(error):
            raise
        pulse.end()
        with contextlib.suppress(_Final, Lost):  # what ended it is what is told
            overseer.finish()
        if not isinstance(error, NumericalError):  # which is the same on all ranks
            raise
        return {"error": str(error), "kind": "NumericalError"}
    return {"error": None, "kind": ""}


class _Final(OperationalError):
    """One that the first rank tells for all: its storage's."""


@contextlib.contextmanager
def _last_checkpoint(
    checkpoints: Checkpoints, group: ProcessGroup, overseer: _Overseer
) -> Iterator[Path | None]:
    """The newest checkpoint that is whole, as the first rank finds it, fetched on every rank; None at the start."""
    newest, error = -1, None
    if group.rank == 0:
        try:
            # As which tracking run it began tells it from one of this name that was removed.
            began = RunStorage(checkpoints.store.root, checkpoints.run).state().get("began", "")
            overseer.send_left(began)
            found = checkpoints.newest_whole(overseer.say)
            newest = -1 if found is None else found
        except (SeqgenError, Lost) as failure:
            newest, error = -2, failure
    newest = _from_first(newest, group)
    if newest == -2:  # the others end as it does, and have nothing to tell
        raise _Final(str(error)) if isinstance(error, OperationalError) else error or _Final("")
    if newest == -1:
        overseer.begin([], Gallery(), resumed=False)
        yield None
        return
    with checkpoints.fetched(newest) as directory:
        seen = read_gallery(directory / gallery.FILE_NAME)
        overseer.begin(read_history(directory / FILE_NAME), seen, resumed=True)
        yield directory


def _from_first(number: int, group: ProcessGroup) -> int:
    """The first rank's number, on every rank."""
    return group.most(number + 2 if group.rank == 0 else 0) - 2


class _Overseer(Callback):
    """Asks the driver and the clock between steps; the first rank's saves checkpoints and tells the news."""

    def __init__(
        self, recipe: Recipe, checkpoints: Checkpoints, pulse: Pulse, task: Task, first: bool
    ) -> None:
        self._recipe, self._pulse, self._first = recipe, pulse, first
        self._exchange, self._patience = task["exchange"], task["upload_seconds"]
        self._history: list[Row] = []
        self._gallery = Gallery()
        self._checkpoints = checkpoints
        self._saved, self._obeyed = time.monotonic(), 0
        self._uploads = Uploads(checkpoints, self.say) if first else None

    def begin(self, history: list[Row], seen: Gallery, resumed: bool) -> None:
        """Training goes on after these epochs. Raises BadInput if they are more than were asked for."""
        if history and history[-1]["epoch"] > (asked := self._recipe.train.epochs):
            raise BadInput(
                f"train.epochs={asked}: the run is at epoch {history[-1]['epoch']} already; "
                "ask for more, or start anew with --force-new"
            )
        self._history, self._gallery = history, seen
        if resumed:
            self._tell(kind="resumed", rows=history)

    def send_left(self, began: str) -> None:
        """See `Uploads.send_left`."""
        if self._uploads:
            self._uploads.send_left(began)

    def say(self, text: str) -> None:
        """A line for whoever sits at the driver."""
        self._tell(kind="say", text=text)

    def profiled(self, table: str, trace: Path | None) -> None:
        """Tell where the time goes, and keep the trace beside the checkpoints."""
        if trace is None:
            return self.say(table)
        store, key = self._checkpoints.store, f"{self._checkpoints.run}/{trace.name}"
        try:
            store.put_file(trace, key)
        except SeqgenError as error:
            self.say(f"{table}\nwarning: the trace is not kept: {error}")
        else:
            self.say(f"{table}\nthe trace, for chrome://tracing: {store.root}/{key}")

    def wish(self) -> Wish:
        self._pulse.asked = (self._pulse.asked or 0) + 1
        orders = self._pulse.orders
        if (orders and orders.stop) or (self._uploads and (self._uploads.lost or self._uploads.failure)):
            return Wish.STOP
        if not self._first:
            return Wish.GO_ON
        ordered = orders is not None and orders.saves > self._obeyed
        due = self._saved + 60 * self._recipe.train.checkpoint_minutes
        return Wish.SAVE if ordered or time.monotonic() >= due else Wish.GO_ON

    def save(self, position: Position, save: SaveFn) -> None:
        self._save(position.step, math.inf, save)

    def skipped(self, step: Skipped) -> None:
        self._tell(kind="skipped", skipped=asdict(step))

    def epoch(self, progress: Progress, save: SaveFn) -> None:
        """Keep the row of an epoch, and save if it is time to."""
        row: Row = {"epoch": progress.epoch, "step": progress.step, **progress.metrics}
        self._history.append(row)
        self._tell(kind="epoch", rows=[row])
        self._draw(progress)
        train, metric = self._recipe.train, self._recipe.data.held_out_metric
        if progress.last and progress.epoch < train.epochs:
            self.say(
                f"ended after epoch {progress.epoch}: the last {train.patience} held-out bounds were not the best"
            )
        if is_saved(self._history, metric, progress.last, train):
            self._save(progress.step, held_out_bound(row, metric), save)

    def _draw(self, progress: Progress) -> None:
        """Keep what the model draws, if it is time to."""
        every, seed = self._recipe.train.gallery_every, self._recipe.train.seed
        if not (self._first and every and (progress.last or progress.epoch % every == 0)):
            return
        from seqgen.training.drawings import drawings, shown

        if self._gallery.context is None:
            conditional = progress.model.config.conditional
            self._gallery.context = shown(progress.held_out, conditional, seed)
        self._gallery.drawn[progress.epoch] = drawings(progress.model, self._gallery.context, seed)

    def finish(self) -> None:
        """Wait for what is not yet in storage. Raises _Final, or Lost."""
        if self._uploads:
            try:
                self._uploads.finish(self._patience)
            except OperationalError as error:
                raise _Final(str(error)) from None

    def stopped(self, stopped: StoppedEarly) -> Outcome:
        """How a training ended that stopped as the driver, or the storage, made it."""
        if self._uploads and self._uploads.failure and not self._uploads.lost:
            return {"error": self._uploads.failure, "kind": "OperationalError"}
        try:
            self.finish()
        except Lost as lost:
            return {"error": str(lost), "kind": "Lost"}
        except _Final as error:
            return {"error": str(error), "kind": "OperationalError"}
        return {"error": str(stopped), "kind": type(stopped).__name__}

    def _save(self, step: int, score: float, save: SaveFn) -> None:
        if self._uploads:

            def write(directory: Path) -> None:
                write_history(directory / FILE_NAME, self._history)
                self._gallery.write(directory / gallery.FILE_NAME)
                save(directory)

            self._uploads.add(step, score, write)
            self._saved = time.monotonic()
            self._obeyed = self._pulse.orders.saves if self._pulse.orders else 0

    def _tell(self, **news: Any) -> None:
        """Tell the driver, on the first rank; training does not stop because nobody listens."""
        from ray.exceptions import RayError

        if self._first:
            with contextlib.suppress(RayError):
                self._exchange.tell.remote({"rows": [], "text": "", "skipped": {}, **news})
