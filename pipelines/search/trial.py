"""One trial of a search: trained in its own process, or by several workers as a Ray Train run."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.artifacts.history import Row
from pipelines.artifacts.published import opened
from pipelines.artifacts.shards import shards_of
from pipelines.search.search_space import trial_recipe
from seqgen.core.machine import Device
from seqgen.settings import Recipe, build_recipe

if TYPE_CHECKING:
    from pipelines.cluster.storage import RunStorage
    from seqgen.training import ProcessGroup, Progress, SaveFn

CPUS_PER_WORKER = 1
# Between two checkpoints of a trial. Tune restores a trial from the checkpoint that its saved state names: that
# state may be older by its own period (driver.py), in which the checkpoint must not have been replaced.
CHECKPOINT_SECONDS = 10.0
CHECKPOINTS_KEPT = 3
_ROW = "row.json"
# Tells Tune of an epoch: its metrics, and the directory of a complete checkpoint, if there is one.
Report = Callable[[Row, Path | None], None]


def trainable(recipe: Recipe, storage: RunStorage, device: Device) -> Any:
    """What Tune runs for each trial, with the resources it takes."""
    from ray import tune

    assert recipe.search is not None
    fixed, gpu = {"recipe": recipe.given(), "shards": str(shards_of(recipe))}, device == "cuda"
    if recipe.search.workers == 1:
        alone = tune.with_parameters(train_alone, **fixed)
        return tune.with_resources(alone, {"cpu": CPUS_PER_WORKER, "gpu": int(gpu)})
    runs = f"{storage.root}/{storage.name}-trials"
    together = tune.with_parameters(train_together, **fixed, storage=runs, gpu=gpu)
    # The driver of the workers takes no CPU, or two of them would hold what the workers wait for. Tune
    # refuses a trial that takes nothing, so it takes a byte.
    return tune.with_resources(together, {"memory": 1})


def train_alone(settings: Mapping[str, Any], recipe: dict[str, Any], shards: str) -> None:
    """Train a trial in this process, from its last checkpoint on: a function trainable of Tune."""
    import torch
    from ray import tune

    from seqgen.training import ProcessGroup

    def report(row: Row, directory: Path | None) -> None:
        checkpoint = tune.Checkpoint.from_directory(str(directory)) if directory else None
        tune.report(row, checkpoint=checkpoint)

    group = ProcessGroup(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    train_trial(settings, recipe, shards, group, tune.get_checkpoint(), report)


def train_together(
    settings: Mapping[str, Any], recipe: dict[str, Any], shards: str, storage: str, gpu: bool
) -> None:
    """Train a trial as a Ray Train run, which its name lets a restored trial resume: as `train_alone`."""
    from ray import tune
    from ray.train import CheckpointConfig, RunConfig, ScalingConfig
    from ray.tune.integration.ray_train import TuneReportCallback

    from pipelines.cluster.driver import trainer_class

    trainer_class(cleaner=True)(
        train_worker,
        train_loop_config={"settings": dict(settings), "recipe": recipe, "shards": shards},
        scaling_config=ScalingConfig(
            num_workers=recipe["search"]["workers"],
            use_gpu=gpu,
            resources_per_worker={"CPU": CPUS_PER_WORKER, "GPU": int(gpu)},
        ),
        run_config=RunConfig(
            name=tune.get_context().get_trial_id(),
            storage_path=storage,
            checkpoint_config=CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT),
            callbacks=[TuneReportCallback()],  # type: ignore[list-item]
        ),
    ).fit()


def train_worker(task: dict[str, Any]) -> None:
    """One worker of `train_together`."""
    import ray.train
    import ray.train.torch

    from seqgen.training import ProcessGroup

    def report(row: Row, directory: Path | None) -> None:
        checkpoint = ray.train.Checkpoint.from_directory(str(directory)) if directory else None
        ray.train.report(row, checkpoint=checkpoint)

    group = ProcessGroup.joined(ray.train.torch.get_device())
    train_trial(task["settings"], task["recipe"], task["shards"], group, ray.train.get_checkpoint(), report)


def train_trial(
    settings: Mapping[str, Any],
    recipe: dict[str, Any],
    shards: str,
    group: ProcessGroup,
    checkpoint: Any,
    report: Report,
) -> None:
    """Train the trial from `checkpoint` (None: from the start); reports every epoch."""
    from seqgen import training

    searched = build_recipe(recipe, "search")
    assert searched.search is not None
    trial = trial_recipe(searched, settings)
    saved, told = time.monotonic(), False

    def on_epoch(progress: Progress, save: SaveFn) -> None:
        nonlocal saved, told
        told = True
        # Tune counts its own iterations anew after a restore, so the epoch is ours.
        row: Row = {"epoch": progress.epoch, "step": progress.step, **progress.metrics}
        due = progress.last or time.monotonic() - saved >= CHECKPOINT_SECONDS
        if group.rank or not due:
            report(row, None)
            return
        with tempfile.TemporaryDirectory(prefix="seqgen-trial-") as name:
            (Path(name) / _ROW).write_text(json.dumps(row))
            save(Path(name))
            report(row, Path(name))
        saved = time.monotonic()

    with checkpoint.as_directory() if checkpoint else contextlib.nullcontext() as name:
        resume = Path(name) if name else None
        training.run(
            trial,
            opened(shards),
            group=group,
            threads=CPUS_PER_WORKER,
            train_images=searched.search.train_images,
            resume=resume,
            callbacks=[training.EachEpoch(on_epoch)],
        )
        if resume and not told:  # all was done, but the driver died before it had saved that
            report(json.loads((resume / _ROW).read_text()), None)
