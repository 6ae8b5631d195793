"""One Ray Train run as its driver sees it: start the workers, hear them, turn failures into ours."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pipelines.artifacts.history import Row
from pipelines.cli.progress import Display
from pipelines.cli.signals import check_stop
from pipelines.cluster.connect import elsewhere
from pipelines.cluster.storage import RunStorage
from pipelines.cluster.worker import SCORE, News, Task, train_worker
from seqgen.core.errors import BadInput, NumericalError, OperationalError
from seqgen.settings import Recipe

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.result import Result
    from ray.util.queue import Queue

_KEPT = 2  # best checkpoints, besides the latest


def run_workers(
    recipe: Recipe,
    shards: Path,
    settings: dict[str, str],
    storage: RunStorage,
    device: Literal["cpu", "cuda"],
    on_row: Callable[[Row], None],
) -> Result:
    """Train on the connected cluster, from the run's last checkpoint if it has one.

    `settings` are digests a checkpoint must have been made with; `on_row` gets every epoch's metrics,
    also those before when the run goes on. Lost workers are restarted `train.max_failures` times.
    Raises NumericalError or BadInput from the workers, OperationalError when the restarts are used up.
    """
    import ray.train
    from ray.train.torch import TorchConfig
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    objective = f"valid/{recipe.data.binarise}/free_energy"
    # On the driver's node: it must not go away with a worker's.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    news = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    task = Task(
        recipe=recipe.model_dump(mode="json", by_alias=True),
        shards=str(shards),
        settings=settings,
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
    with Display(recipe.train.epochs, objective).shown() as display:
        display.say(f"starting {workers} worker{'s' if workers > 1 else ''} on {device}")
        result = _follow(cast("Callable[[], Result]", trainer.fit), news, display, on_row, storage)
    outcome = result.return_value or {"error": None}
    if outcome["error"] is not None:
        raise (NumericalError if outcome["kind"] == "NumericalError" else BadInput)(outcome["error"])
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


def _follow(
    fit: Callable[[], Result],
    news: Queue,
    display: Display,
    on_row: Callable[[Row], None],
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
        _hear(news, display, on_row, wait=0.5)
        check_stop()
    _hear(news, display, on_row, wait=0)
    check_stop()
    if "error" in done:
        raise _failure(done["error"], storage)
    return done["result"]


def _hear(news: Queue, display: Display, on_row: Callable[[Row], None], wait: float) -> None:
    from ray.exceptions import RayError
    from ray.util.queue import Empty

    try:
        while True:
            item: News = news.get(timeout=wait) if wait else news.get_nowait()
            for row in item["rows"]:
                on_row(row)
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
