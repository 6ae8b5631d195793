"""One Ray Train run as its driver sees it: start the workers, hear them, turn failures into ours."""

from __future__ import annotations

import atexit
import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipelines.artifacts import gallery
from pipelines.artifacts.gallery import Gallery, read_gallery
from pipelines.artifacts.history import FILE_NAME, Row, read_history
from pipelines.cli.progress import TrainingDisplay
from pipelines.cli.signals import check_stop, on_stop
from pipelines.cluster.checkpoints import Checkpoints
from pipelines.cluster.connect import elsewhere
from pipelines.cluster.failures import is_echo, told
from pipelines.cluster.line import Exchange, Heard
from pipelines.cluster.patience import Patience
from pipelines.cluster.storage import RunStorage
from pipelines.cluster.waiting import Waiting
from pipelines.cluster.worker import News, Task, train_worker
from pipelines.storage.lease import Lost
from seqgen import native
from seqgen.core.errors import BadInput, NumericalError, OperationalError, SeqgenError, StoppedEarly
from seqgen.core.machine import Device
from seqgen.native.build import chosen
from seqgen.settings import Recipe

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.result import Result

_SKIPPED = "skipped-steps.json"
_LEAVING = 10.0  # seconds for Ray's thread to end after Ray was shut down
_KINDS = {kind.__name__: kind for kind in (BadInput, NumericalError, OperationalError, StoppedEarly, Lost)}


@dataclass(frozen=True)
class TrainingResult:
    """A finished run: its checkpoint with the lowest held-out bound (nats), that bound, all rows and drawings."""

    checkpoints: Checkpoints
    step: int
    bound: float
    history: list[Row]
    gallery: Gallery

    @property
    def epoch(self) -> int:
        """The epoch of that checkpoint."""
        return next(int(row["epoch"]) for row in self.history if row["step"] == self.step)

    def summary(self) -> dict[str, Any]:
        """What a person or a later stage wants to know of it."""
        return {
            "checkpoint": self.checkpoints.address(self.step),
            "best_epoch": self.epoch,
            "best_bound": self.bound,
            "epochs": self.history[-1]["epoch"],
            "steps": self.history[-1]["step"],
        }


def run_workers(
    recipe: Recipe,
    shards: str,
    digests: dict[str, str],
    storage: RunStorage,
    device: Device,
    patience: Patience,
    on_epoch: Callable[[Row], None],
    initial: Path | None = None,
    profile: bool = False,
) -> TrainingResult:
    """Train on the connected cluster, from the run's last checkpoint if it has one.

    `shards` is the address of the set, `initial` the model that a new run starts from. `digests` says what a
    checkpoint must have been made with; `on_epoch` gets every epoch's row, also those before when the run goes on.
    With `profile` the first worker says where the time of a few steps goes. Lost workers are restarted
    `train.max_failures` times; an error that would come again (`failures.may_be_mended`) ends the training.
    Raises NumericalError or BadInput from the workers, OperationalError for their other errors, when the restarts are
    used up or a worker hangs, StoppedEarly, once the workers have saved, on SIGTERM or Ctrl-C.
    """
    import ray.train
    from ray.train.torch import TorchConfig
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On the driver's node: it must not go away with a worker's.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # Asked several times a second: a record of every call would fill the memory of the cluster's head.
    options = {"num_cpus": 0, "scheduling_strategy": here, "enable_task_events": False}
    exchange: Any = ray.remote(Exchange).options(**options).remote()
    task = Task(
        recipe=recipe.model_dump(mode="json", by_alias=True),
        shards=shards,
        digests=digests,
        initial=str(initial) if initial else None,
        storage=storage.root,
        run=storage.name,
        lease=storage.lease,
        exchange=exchange,
        upload_seconds=patience.upload,
        profile=profile,
    )
    workers, cuda = recipe.train.workers, device == "cuda"
    fewest = recipe.train.fewest_workers or workers
    checkpoints = Checkpoints(storage.store, storage.name, recipe.train.keep_checkpoints)
    with (
        # What Ray keeps for itself: nothing that a run goes on with, which is why it is new each time.
        tempfile.TemporaryDirectory(prefix="seqgen-ray-train-", ignore_cleanup_errors=True) as scratch,
        TrainingDisplay(recipe.train.epochs, recipe.data.held_out_metric) as display,
    ):
        trainer = trainer_class(cleaner=elsewhere())(
            train_worker,  # type: ignore[arg-type]  # its value comes back in the result
            train_loop_config=dict(task),
            torch_config=TorchConfig(backend="nccl" if cuda else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=(fewest, workers) if fewest < workers else workers,  # type: ignore[arg-type]
                use_gpu=cuda,
                resources_per_worker={"CPU": 1, "GPU": 1} if cuda else {"CPU": 1},
            ),
            run_config=ray.train.RunConfig(
                name=storage.name,
                storage_path=scratch,
                failure_config=ray.train.FailureConfig(max_failures=recipe.train.max_failures),
            ),
        )
        display.say(f"starting {workers} worker{'s' if workers > 1 else ''} on {device}")
        if not cuda and chosen() and not native.loads():
            display.say(
                "the native kernels are not built here: `python -m seqgen.native` makes training faster"
            )
        listener = _Listener(exchange, display, on_epoch, storage, patience)
        waiting = Waiting(fewest, ["CPU", "GPU"] if cuda else ["CPU"], display.say)
        result = _follow(cast("Callable[[], Result]", trainer.fit), listener, waiting, checkpoints)
    outcome = result.return_value or {"error": None}
    if outcome["error"] is not None:
        raise _KINDS[outcome["kind"]](outcome["error"])
    return trained(checkpoints)


def trained(checkpoints: Checkpoints) -> TrainingResult:
    """What a run has come to: its best checkpoint, and the history.

    Raises OperationalError if there is none, or the latest is damaged, NumericalError if none has a finite bound.
    """
    steps = checkpoints.steps()
    if not steps:
        raise OperationalError(
            f"run {checkpoints.run} ended without a checkpoint in {checkpoints.store.root}"
        )
    best = checkpoints.best(steps)
    if best is None:
        raise NumericalError(
            f"run {checkpoints.run}: no checkpoint has a finite held-out bound; try a lower train.learning_rate"
        )
    with checkpoints.fetched(steps[0]) as latest:
        history, drawn = read_history(latest / FILE_NAME), read_gallery(latest / gallery.FILE_NAME)
    result = TrainingResult(checkpoints, best, checkpoints.score(best), history, drawn)
    print(f"best of {history[-1]['epoch']} epochs: {result.epoch}, held-out bound {result.bound:.2f} nats")
    return result


def trainer_class(cleaner: bool) -> type[TorchTrainer]:
    """Ray's trainer without actors that we have no use for, each of which imports for seconds.

    There are no Ray Data sets to hand out. Only where a cluster outlives the training (`cleaner`) must a
    dead controller's resources be given back.
    """
    from ray.train.torch import TorchTrainer

    unused = {"DatasetsCallback"} if cleaner else {"DatasetsCallback", "PlacementGroupCleanerCallback"}

    class Trainer(TorchTrainer):
        # Ray's own method: where a release has another, its actors start again, and nothing else changes.
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()  # type: ignore[misc]
            return [callback for callback in callbacks if type(callback).__name__ not in unused]

    return Trainer


class _Listener:
    """What the driver hears of its workers, and does about it."""

    def __init__(
        self,
        exchange: ActorHandle,
        display: TrainingDisplay,
        on_epoch: Callable[[Row], None],
        storage: RunStorage,
        patience: Patience,
    ) -> None:
        self._exchange, self._display, self._on_epoch, self._storage = exchange, display, on_epoch, storage
        self._hang, self.grace = patience.hang, patience.grace
        self._skipped: dict[int, dict[str, Any]] = {}
        self._draining: set[str] = set()
        self.alive = False

    def hear(self, over: bool = False) -> None:
        """Take in the news; `over`: all workers have ended.

        Raises OperationalError if a worker hangs, and what workers told that they failed of.
        """
        import ray
        from ray.exceptions import RayError

        try:
            heard: Heard = ray.get(self._exchange.hear.remote(self._hang), timeout=30)  # type: ignore[assignment]
        except RayError:  # it is gone, or busy: the history in the checkpoint will tell
            return
        self.alive = heard.alive
        for item in heard.news:
            self._take(item)
        if heard.failures and (heard.settled or over):
            raise told(heard.failures)
        if heard.hanging:
            raise OperationalError(
                f"training stands still: {'; '.join(heard.hanging)}. If a step may take longer than {self._hang:g} s, "
                "set SEQGEN_HANG_SECONDS"
            )

    def look_at_nodes(self) -> None:
        """Have the workers save when a node of the cluster is about to go: what was done is not lost with it."""
        import ray

        draining = set(ray._private.state.state.get_draining_nodes() or ())  # Ray has no public way to ask
        if draining - self._draining:
            self._display.say(f"node {', '.join(sorted(draining - self._draining))} is being drained: saving")
            self._exchange.save.remote()
        self._draining = draining

    def stop(self) -> None:
        """Ask the workers to save and stop."""
        self._exchange.stop.remote()

    def _take(self, item: News) -> None:
        for row in item["rows"]:
            self._on_epoch(row)
            if item["kind"] == "epoch":
                self._display.epoch(row)
        if item["kind"] == "resumed":
            done = item["rows"][-1]["epoch"] if item["rows"] else 0
            self._display.say(f"going on after epoch {done:.0f}")
        elif item["kind"] == "say":
            self._display.say(item["text"])
        elif item["kind"] == "skipped":
            self._note(item["skipped"])

    def _note(self, skipped: dict[str, Any]) -> None:
        self._skipped[skipped["step"]] = skipped
        try:
            where = f"stand in {self._storage.note(_SKIPPED, list(self._skipped.values()))}"
        except (OperationalError, BadInput) as error:  # no reason to end; the next skipped one takes it along
            where = f"are not written down: {error}"
        self._display.say(
            f"warning: step {skipped['step']} (epoch {skipped['epoch']}) is not taken: its gradient is not finite; "
            f"its images {where}"
        )


def _follow(
    fit: Callable[[], Result], listener: _Listener, waiting: Waiting, checkpoints: Checkpoints
) -> Result:
    """Run `fit` in a thread, where Ray puts no signal handlers, and hear the workers meanwhile."""
    done: dict[str, Any] = {}

    def work() -> None:
        try:
            done["result"] = fit()
        except BaseException as error:
            done["error"] = error

    thread = threading.Thread(target=work, name="ray-train", daemon=True)
    thread.start()
    # A stop or a failure leaves it behind until Ray is shut down; in Ray's code at the interpreter's end it crashes.
    atexit.register(thread.join, _LEAVING)
    with _stop_in_order(listener) as patience:
        while thread.is_alive():
            thread.join(0.5)
            listener.hear()
            listener.look_at_nodes()
            waiting.look(listener.alive)
            patience()
    listener.hear(over=True)
    if "error" in done:
        check_stop()
        raise _failure(done["error"], checkpoints)
    return done["result"]


@contextlib.contextmanager
def _stop_in_order(listener: _Listener) -> Iterator[Callable[[], None]]:
    """Let a signal ask the workers to save and stop.

    Call what it gives again and again: it raises StoppedEarly where there is nothing to save, or none has been after
    SEQGEN_GRACE_SECONDS.
    """
    began: list[float] = []

    def ask() -> None:
        began.append(time.monotonic())

    told = False

    def patience() -> None:
        nonlocal told
        if not began:
            return
        if not told:
            listener.stop()
            told = True
        if not listener.alive or time.monotonic() - began[0] > listener.grace:
            check_stop()

    with on_stop(ask):
        check_stop()
        yield patience


def _failure(error: BaseException, checkpoints: Checkpoints) -> BaseException:
    """A failed run as one line: the cause, not its echoes in the other workers, and what is left."""
    from ray.train import TrainingFailedError, WorkerGroupError

    if not isinstance(error, TrainingFailedError):
        return error
    cause: BaseException = error
    who = ""
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        rank, cause = min(error.worker_failures.items(), key=lambda item: (is_echo(item[1]), item[0]))
        who = f"rank {rank}: "
    text = next((line for line in reversed(str(cause).splitlines()) if line.strip()), type(cause).__name__)
    return OperationalError(
        f"training failed and its restarts are used up: {who}{text.strip()[:300]}; {_last_checkpoint(checkpoints)}"
    )


def _last_checkpoint(checkpoints: Checkpoints) -> str:
    with contextlib.suppress(SeqgenError):
        if steps := checkpoints.steps():
            return f"the last checkpoint is {checkpoints.address(steps[0])}"
        return "there is no checkpoint yet"
    return "its storage does not answer"
