"""One trial of a search: trained in the trial's own process, or by several workers as a Ray Train run of its own."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.space import trial_recipe
from seqgen.config import Recipe, build_recipe

if TYPE_CHECKING:
    from seqgen.data.images import ImageSet
    from seqgen.training import Progress, SaveFn

CPUS_PER_WORKER = 1


def objective(recipe: Recipe) -> str:
    """The metric a search minimises: the held-out free energy, nats per image."""
    return f"valid/{recipe.data.binarise}/free_energy"


def train_here(settings: Mapping[str, Any], recipe: Mapping[str, Any], shards: str) -> None:
    """Train one trial in this process: a function trainable of Ray Tune.

    `recipe` is the search's recipe as a tree. Reports the metrics and a checkpoint after every epoch and goes on
    from the trial's last checkpoint.
    """
    import torch
    from ray import tune

    from seqgen.models import build
    from seqgen.training import fit

    resolved = trial_recipe(build_recipe(recipe, "search"), settings)
    torch.set_num_threads(CPUS_PER_WORKER)
    torch.manual_seed(resolved.train.seed)
    train, valid, mean = _sets(shards, _limit(recipe))
    model = build(resolved.model, train.height, train.width, mean)

    def on_epoch(progress: Progress, save: SaveFn) -> None:
        with tempfile.TemporaryDirectory() as directory:
            save(Path(directory))
            tune.report(row(progress), checkpoint=tune.Checkpoint.from_directory(directory))

    checkpoint = tune.get_checkpoint()
    with checkpoint.as_directory() if checkpoint else contextlib.nullcontext() as resume:
        fit(
            model,
            train,
            valid,
            resolved.data,
            resolved.train,
            resume=Path(resume) if resume else None,
            on_epoch=on_epoch,
        )


def row(progress: Progress) -> dict[str, Any]:
    """What a trial reports. Tune counts its own iterations anew after a restore, so the epoch is ours."""
    return {"epoch": progress.epoch, "step": progress.step, **progress.metrics}


def _limit(recipe: Mapping[str, Any]) -> int | None:
    return recipe["search"]["train_images"]


@functools.lru_cache(maxsize=1)
def _sets(shards: str, limit: int | None) -> tuple[ImageSet, ImageSet, float]:
    """The training and held-out images and the mean pixel; kept, because a process trains several trials."""
    from data_prep.manifest import read_manifest
    from seqgen.data.images import load_split

    directory = Path(shards)
    return load_split(directory, "train", limit), load_split(directory, "valid"), read_manifest(directory).mean
