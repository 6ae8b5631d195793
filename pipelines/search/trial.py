"""One trial of a search: trained in its own process, or by several workers as a Ray Train run."""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.search.search_space import is_grid, trial_recipe
from seqgen.settings import Recipe, build_recipe

if TYPE_CHECKING:
    import torch

    from pipelines.cluster.storage import RunStorage
    from seqgen.data.images import ImageSet
    from seqgen.training import ProcessGroup, Progress, SaveFn

CPUS_PER_WORKER = 1
# Between two checkpoints of a trial. Tune restores a trial from the checkpoint that its saved state names: that
# state may be older by its own period (study.py), in which the checkpoint must not have been replaced.
CHECKPOINT_SECONDS = 10.0
CHECKPOINTS_KEPT = 3
_ROW = "row.json"
Row = dict[str, Any]
# Tells Tune of an epoch: its metrics, and the directory of a complete checkpoint, if there is one.
Report = Callable[[Row, Path | None], None]


def objective(recipe: Recipe) -> str:
    """The metric a search minimises: the held-out free energy, nats per image."""
    return f"valid/{recipe.data.binarise}/free_energy"


def domains(recipe: Recipe) -> dict[str, Any]:
    """The checked space in Ray Tune's terms; a range of a whole-number setting has both ends."""
    from ray import tune

    assert recipe.search is not None
    choose = tune.grid_search if is_grid(recipe.search) else tune.choice
    found: dict[str, Any] = {}
    for key, values in recipe.search.space.items():
        section, name = key.split(".")
        if isinstance(values, list):
            found[key] = choose(values)
        elif isinstance(getattr(getattr(recipe, section), name), int):
            found[key] = (tune.lograndint if values.get("log") else tune.randint)(
                values["low"], values["high"] + 1
            )
        else:
            found[key] = (tune.loguniform if values.get("log") else tune.uniform)(
                values["low"], values["high"]
            )
    return found


def trainable(recipe: Recipe, storage: RunStorage, device: str) -> Any:
    """What Tune runs for each trial, with the resources it takes."""
    from ray import tune

    from pipelines.artifacts.places import places

    assert recipe.search is not None
    tree, shards = recipe.model_dump(mode="json", by_alias=True), str(places(recipe).shards)
    workers, gpu = recipe.search.workers, device == "cuda"
    if workers == 1:
        alone = tune.with_parameters(train_alone, recipe=tree, shards=shards)
        return tune.with_resources(alone, {"cpu": CPUS_PER_WORKER, "gpu": int(gpu)})
    together = tune.with_parameters(
        train_together, recipe=tree, shards=shards, storage=f"{storage.root}/{storage.name}-trials", gpu=gpu
    )
    # The driver of the workers takes no CPU, or two of them would hold what the workers wait for. Tune
    # refuses a trial that takes nothing, so it takes a byte.
    return tune.with_resources(together, {"memory": 1})


def train_alone(settings: Mapping[str, Any], recipe: Row, shards: str) -> None:
    """Train a trial in this process, from its last checkpoint on: a function trainable of Tune."""
    import torch
    from ray import tune

    from seqgen.training import ProcessGroup

    def report(row: Row, directory: Path | None) -> None:
        checkpoint = tune.Checkpoint.from_directory(str(directory)) if directory else None
        tune.report(row, checkpoint=checkpoint)

    group = ProcessGroup(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    train_trial(settings, recipe, shards, group, tune.get_checkpoint(), report)


def train_together(settings: Mapping[str, Any], recipe: Row, shards: str, storage: str, gpu: bool) -> None:
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


def train_worker(task: Row) -> None:
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
    recipe: Row,
    shards: str,
    group: ProcessGroup,
    checkpoint: Any,
    report: Report,
) -> None:
    """Train the trial from `checkpoint` (None: from the start); reports every epoch."""
    import torch

    from seqgen.models import build
    from seqgen.training import fit

    resolved = trial_recipe(build_recipe(recipe, "search"), settings)
    torch.set_num_threads(CPUS_PER_WORKER)
    torch.manual_seed(resolved.train.seed)
    train, valid, mean = _sets(shards, recipe["search"]["train_images"], group.device)
    model = build(resolved.model, train.height, train.width, mean)

    saved = time.monotonic()

    def on_epoch(progress: Progress, save: SaveFn) -> None:
        nonlocal saved
        # Tune counts its own iterations anew after a restore, so the epoch is ours.
        row = {"epoch": progress.epoch, "step": progress.step, **progress.metrics}
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
        if resume and (row := json.loads((resume / _ROW).read_text()))["epoch"] >= resolved.train.epochs:
            report(row, None)  # all was done, but the driver died before it had saved that
            return
        fit(model, train, valid, resolved.data, resolved.train, group=group, resume=resume, on_epoch=on_epoch)


@functools.lru_cache(maxsize=1)
def _sets(shards: str, limit: int | None, device: torch.device) -> tuple[ImageSet, ImageSet, float]:
    """The training and held-out images and the mean pixel; kept, because a process trains several trials."""
    from seqgen.core.machine import cores
    from seqgen.data.images import load_split
    from seqgen.data.manifest import read_manifest
    from seqgen.training.memory import image_memory

    # Whatever the trials of this process need: as if every core had one.
    directory, room = Path(shards), image_memory(cores() // CPUS_PER_WORKER, device=device)
    return (
        load_split(directory, "train", limit, memory=room),
        load_split(directory, "valid", memory=room),
        read_manifest(directory).mean,
    )
