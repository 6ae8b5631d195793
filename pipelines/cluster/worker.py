"""What a worker of a Ray Train run does: join, load, train, report checkpoints, tell the driver."""

from __future__ import annotations

import contextlib
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from pipelines.artifacts.history import FILE_NAME, Row, read_history, write_history
from seqgen.core.errors import BadInput, NumericalError
from seqgen.data.manifest import read_manifest
from seqgen.settings import build_recipe
from seqgen.training.memory import bytes_needed, image_memory

if TYPE_CHECKING:
    from ray.util.queue import Queue

    from seqgen.training import Progress, SaveFn

SCORE = "score"


class Task(TypedDict):
    """What the driver hands to every worker. Holds no credentials."""

    recipe: dict[str, Any]
    shards: str
    settings: dict[str, str]
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
    import torch

    from seqgen.data.images import load_split
    from seqgen.models import build
    from seqgen.training import ProcessGroup, divide_cores, fit

    context = ray.train.get_context()
    processes = context.get_local_world_size()
    divide_cores(processes)
    group = ProcessGroup.joined(ray.train.torch.get_device())
    recipe = build_recipe(task["recipe"], "recipe")
    manifest, shards = read_manifest(Path(task["shards"])), Path(task["shards"])
    room = image_memory(processes, bytes_needed(recipe) // recipe.train.workers, group.device)
    torch.manual_seed(recipe.train.seed)
    model = build(recipe.model, manifest.height, manifest.width, manifest.mean)
    checkpoint = ray.train.get_checkpoint()
    with checkpoint.as_directory() if checkpoint else contextlib.nullcontext() as resume:
        rows = read_history(Path(resume) / FILE_NAME) if resume else []
        if group.rank == 0:
            _tell(task["news"], {"resumed": bool(resume), "rows": rows})
        objective = f"valid/{recipe.data.binarise}/free_energy"
        reporter = _Reporter(recipe.train.checkpoint_every, objective, rows, task["news"])
        try:
            fit(
                model,
                load_split(shards, "train", memory=room),
                load_split(shards, "valid", memory=room),
                recipe.data,
                recipe.train,
                group=group,
                resume=Path(resume) if resume else None,
                on_epoch=reporter,
                settings=task["settings"],
            )
        except (NumericalError, BadInput) as error:  # the same on all ranks
            return {"error": str(error), "kind": type(error).__name__}
    return {"error": None, "kind": ""}


class _Reporter:
    """After every epoch a row of history and, where one is due, a checkpoint that holds them all."""

    def __init__(self, every: int, objective: str, rows: list[Row], news: Queue) -> None:
        self._every, self._objective, self._rows, self._news = every, objective, rows, news

    def __call__(self, progress: Progress, save: SaveFn) -> None:
        import ray.train

        first = ray.train.get_context().get_world_rank() == 0
        row: Row = {"epoch": progress.epoch, "step": progress.step, **progress.metrics}
        self._rows.append(row)
        if first:
            _tell(self._news, {"resumed": False, "rows": [row]})
        if not progress.last and progress.epoch % self._every:
            return
        with tempfile.TemporaryDirectory(prefix="seqgen-checkpoint-") as name:
            checkpoint = None
            if first:
                write_history(Path(name) / FILE_NAME, self._rows)
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
