"""One Ray Train run as its driver sees it: start the workers, hear them, turn failures into ours."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipelines.artifacts.history import FILE_NAME, Row, read_history
from pipelines.cli.progress import TrainingDisplay
from pipelines.cli.signals import check_stop
from pipelines.cluster.connect import elsewhere
from pipelines.cluster.storage import RunStorage
from pipelines.cluster.worker import SCORE, News, Task, train_worker
from seqgen import native
from seqgen.core.errors import BadInput, NumericalError, OperationalError
from seqgen.core.machine import Device
from seqgen.native.build import chosen
from seqgen.settings import Recipe

if TYPE_CHECKING:
    from ray.train import Checkpoint
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.result import Result
    from ray.util.queue import Queue

_KEPT = 2  # best checkpoints, besides the latest


@dataclass(frozen=True)
class TrainingResult:
    """A finished run: the checkpoint with the lowest held-out bound (nats), its epoch, and every epoch's row."""

    checkpoint: Checkpoint
    epoch: int
    bound: float
    history: list[Row]

    def summary(self) -> dict[str, Any]:
        """What a person or a later stage wants to know of it."""
        return {
            "checkpoint": self.checkpoint.path,
            "best_epoch": self.epoch,
            "best_bound": self.bound,
            "epochs": self.history[-1]["epoch"],
            "steps": self.history[-1]["step"],
        }


def run_workers(
    recipe: Recipe,
    shards: Path,
    digests: dict[str, str],
    storage: RunStorage,
    device: Device,
    on_epoch: Callable[[Row], None],
    initial: Path | None = None,
) -> TrainingResult:
    """Train on the connected cluster, from the run's last checkpoint if it has one.

    `digests` says what a checkpoint must have been made with; `on_epoch` gets every epoch's row, also those
    before when the run goes on; `initial` is the model that a new run starts from.
    Lost workers are restarted `train.max_failures` times.
    Raises NumericalError or BadInput from the workers, OperationalError when the restarts are used up.
    """
    import ray.train
    from ray.train.torch import TorchConfig
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On the driver's node: it must not go away with a worker's.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    news = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    task = Task(
        recipe=recipe.model_dump(mode="json", by_alias=True),
        shards=str(shards),
        digests=digests,
        initial=str(initial) if initial else None,
        news=news,
    )
    workers, cuda = recipe.train.workers, device == "cuda"
    trainer = trainer_class(cleaner=elsewhere())(
        train_worker,  # type: ignore[arg-type]  # its value comes back in the result
        train_loop_config=dict(task),
        torch_config=TorchConfig(backend="nccl" if cuda else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=cuda,
            resources_per_worker={"CPU": 1, "GPU": 1} if cuda else {"CPU": 1},
        ),
        run_config=ray.train.RunConfig(
            name=storage.name,
            storage_path=storage.root,
            failure_config=ray.train.FailureConfig(max_failures=recipe.train.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=_KEPT, checkpoint_score_attribute=SCORE, checkpoint_score_order="min"
            ),
        ),
    )
    with TrainingDisplay(recipe.train.epochs, recipe.data.held_out_metric) as display:
        display.say(f"starting {workers} worker{'s' if workers > 1 else ''} on {device}")
        if not cuda and chosen() and not native.loads():
            display.say(
                "the native kernels are not built here: `python -m seqgen.native` makes training faster"
            )
        result = _follow(cast("Callable[[], Result]", trainer.fit), news, display, on_epoch, storage)
    outcome = result.return_value or {"error": None}
    if outcome["error"] is not None:
        raise (NumericalError if outcome["kind"] == "NumericalError" else BadInput)(outcome["error"])
    if not result.best_checkpoints or result.checkpoint is None:
        raise OperationalError(f"run {storage.name} ended without a checkpoint in {storage.root}")
    checkpoint, epoch, bound = best_checkpoint(result.best_checkpoints, storage.name)
    with result.checkpoint.as_directory() as latest:
        history = read_history(Path(latest) / FILE_NAME)
    print(f"best of {history[-1]['epoch']} epochs: {epoch}, held-out bound {bound:.2f} nats")
    return TrainingResult(checkpoint, epoch, bound, history)


def best_checkpoint(
    kept: Sequence[tuple[Checkpoint, dict[str, Any]]], run: str
) -> tuple[Checkpoint, int, float]:
    """The checkpoint of the lowest score among those kept (the latest of equals), its epoch and its score.

    Raises NumericalError if no score is finite.
    """
    finite = [(checkpoint, metrics) for checkpoint, metrics in kept if math.isfinite(metrics[SCORE])]
    if not finite:
        raise NumericalError(
            f"run {run}: no checkpoint has a finite held-out bound; try a lower train.learning_rate"
        )
    checkpoint, metrics = min(finite, key=lambda pair: (pair[1][SCORE], -pair[1]["epoch"]))
    return checkpoint, metrics["epoch"], metrics[SCORE]


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


def _follow(
    fit: Callable[[], Result],
    news: Queue,
    display: TrainingDisplay,
    on_epoch: Callable[[Row], None],
    storage: RunStorage,
) -> Result:
    """Run `fit` in a thread, where Ray puts no signal handlers, and hear the workers' news meanwhile."""
    done: dict[str, Any] = {}

    def work() -> None:
        try:
            done["result"] = fit()
        except BaseException as error:
            done["error"] = error

    thread = threading.Thread(target=work, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        _hear(news, display, on_epoch, wait=0.5)
        check_stop()
    _hear(news, display, on_epoch, wait=0)
    check_stop()
    if "error" in done:
        raise _failure(done["error"], storage)
    return done["result"]


def _hear(news: Queue, display: TrainingDisplay, on_epoch: Callable[[Row], None], wait: float) -> None:
    from ray.exceptions import RayError
    from ray.util.queue import Empty

    try:
        while True:
            item: News = news.get(timeout=wait) if wait else news.get_nowait()
            for row in item["rows"]:
                on_epoch(row)
            if item["resumed"]:
                display.say(f"going on after epoch {item['rows'][-1]['epoch']:.0f}")
            else:
                for row in item["rows"]:
                    display.epoch(row)
    except Empty:
        return
    except RayError:  # the queue is gone: the history in the checkpoint will tell
        time.sleep(wait)


def _failure(error: BaseException, storage: RunStorage) -> BaseException:
    """A failed run as one line: the cause, not its echoes in the other workers, and what is left."""
    from ray.train import TrainingFailedError, WorkerGroupError

    if not isinstance(error, TrainingFailedError):
        return error
    cause: BaseException = error
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        ranks = sorted(error.worker_failures.items(), key=lambda item: (_is_echo(item[1]), item[0]))
        cause = ranks[0][1]
    text = next((line for line in reversed(str(cause).splitlines()) if line.strip()), type(cause).__name__)
    return OperationalError(
        f"training failed and its restarts are used up: {text.strip()[:300]}; {_last_checkpoint(storage)}"
    )


def _is_echo(error: BaseException) -> bool:
    """Whether a worker only noticed that another one went away."""
    text = str(error).lower()
    return any(sign in text for sign in ("connection closed by peer", "connection reset", "nccl", "gloo"))


def _last_checkpoint(storage: RunStorage) -> str:
    from ray.train import Result

    try:
        checkpoint = Result.from_path(f"{storage.root}/{storage.name}").checkpoint
    except RuntimeError:
        checkpoint = None
    return f"the last checkpoint is {checkpoint.path}" if checkpoint else "there is no checkpoint yet"
