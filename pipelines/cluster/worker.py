"""What a worker of a Ray Train run does: join, train, report checkpoints, tell the driver."""

from __future__ import annotations

import contextlib
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from pipelines.artifacts.history import FILE_NAME, Row, read_history, write_history
from seqgen.core.errors import BadInput, NumericalError
from seqgen.core.machine import cores
from seqgen.settings import build_recipe

if TYPE_CHECKING:
    from ray.util.queue import Queue

    from seqgen.training import Progress, SaveFn

SCORE = "score"  # by which Ray keeps checkpoints: the held-out bound, infinite where it was not measured


class Task(TypedDict):
    """What the driver hands to every worker. Holds no credentials."""

    recipe: dict[str, Any]
    shards: str
    digests: dict[str, str]
    initial: str | None
    news: Queue


class News(TypedDict):
    """What the first worker tells the driver: the rows of a resumed run, or one new row."""

    resumed: bool
    rows: list[Row]


class Outcome(TypedDict):
    """How a worker ended: an error that a restart would only repeat is handed over, not raised."""

    error: str | None
    kind: str


def train_worker(task: dict[str, Any]) -> Outcome:
    """The training loop of one worker; `task` is a `Task`."""
    import ray.train
    import ray.train.torch

    from seqgen import training

    recipe = build_recipe(task["recipe"], "recipe")
    group = training.ProcessGroup.joined(ray.train.torch.get_device())
    workers_here = ray.train.get_context().get_local_world_size()
    checkpoint = ray.train.get_checkpoint()
    with checkpoint.as_directory() if checkpoint else contextlib.nullcontext() as resume:
        history = read_history(Path(resume) / FILE_NAME) if resume else []
        if group.rank == 0:
            _tell(task["news"], {"resumed": bool(resume), "rows": history})
        try:
            training.run(
                recipe,
                Path(task["shards"]),
                group=group,
                threads=max(1, cores() // workers_here),
                initial=Path(task["initial"]) if task["initial"] else None,
                resume=Path(resume) if resume else None,
                on_epoch=_Reporter(
                    group.rank == 0,
                    recipe.train.checkpoint_every,
                    recipe.data.held_out_metric,
                    history,
                    task["news"],
                ),
                digests=task["digests"],
            )
        except (NumericalError, BadInput) as error:  # the same on all ranks
            return {"error": str(error), "kind": type(error).__name__}
    return {"error": None, "kind": ""}


class _Reporter:
    """After every epoch a row of history and, where one is due, a checkpoint that holds them all."""

    def __init__(self, first: bool, every: int, objective: str, history: list[Row], news: Queue) -> None:
        self._first, self._every, self._objective = first, every, objective
        self._history, self._news = history, news

    def __call__(self, progress: Progress, save: SaveFn) -> None:
        import ray.train

        row: Row = {"epoch": progress.epoch, "step": progress.step, **progress.metrics}
        self._history.append(row)
        if self._first:
            _tell(self._news, {"resumed": False, "rows": [row]})
        if not progress.last and progress.epoch % self._every:
            return
        with tempfile.TemporaryDirectory(prefix="seqgen-checkpoint-") as name:
            checkpoint = None
            if self._first:
                write_history(Path(name) / FILE_NAME, self._history)
                save(Path(name))
                checkpoint = ray.train.Checkpoint.from_directory(name)
            # An epoch without a (finite) held-out bound is never the best one.
            bound = progress.metrics.get(self._objective, math.inf)
            metrics = {SCORE: bound if math.isfinite(bound) else math.inf, "epoch": progress.epoch}
            ray.train.report(
                metrics, checkpoint=checkpoint, checkpoint_dir_name=f"epoch-{progress.epoch:05d}"
            )


def _tell(news: Queue, what: News) -> None:
    """Tell the driver; training does not stop because nobody listens."""
    from ray.exceptions import RayError

    with contextlib.suppress(RayError):
        news.put_nowait(what)
