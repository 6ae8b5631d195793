"""One training from settings and shards to a model: what a Ray worker, a trial, a plain process and a benchmark call.

In a script it needs no cluster and no tracking server:

    from pathlib import Path
    from seqgen import settings, training
    from seqgen.models import save_model

    def show(progress, save):
        print(progress.epoch, progress.metrics)

    recipe = settings.read_recipe(Path("recipes/quickstart.yaml"))
    model = training.run(recipe, Path("artifacts/quickstart/shards"), callbacks=[training.EachEpoch(show)])
    save_model(model, Path("model"))
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from seqgen.core.machine import cores
from seqgen.data.images import ImageSet, load_split
from seqgen.data.manifest import Place, read_manifest
from seqgen.data.streamed import StreamedImages
from seqgen.models import SequentialModel, build, load_model
from seqgen.settings import Recipe
from seqgen.training.callbacks import Callback
from seqgen.training.loop import fit
from seqgen.training.memory import bytes_needed, image_memory
from seqgen.training.process_group import ProcessGroup
from seqgen.training.schedule import Schedule, learning_rate


def run(
    recipe: Recipe,
    shards: Place,
    *,
    group: ProcessGroup | None = None,
    threads: int | None = None,
    train_images: int | None = None,
    initial: Path | None = None,
    resume: Path | None = None,
    callbacks: Sequence[Callback] = (),
    digests: Mapping[str, str] | None = None,
    schedule: Schedule = learning_rate,
) -> SequentialModel:
    """Train `recipe`'s model on the shards of a set and return the averaged weights, the same on every rank.

    Everything random follows from `recipe.train.seed`. `group` is the processes that train together (default:
    this one alone, whatever `recipe.train.workers` says), `threads` the cores each has for its tensors (default:
    all; part of what makes a run repeatable, because sums are split by thread). `train_images` limits what is
    trained on, as `ImageSet.spread` does. `initial` is the directory of a saved model of these settings, whose weights
    the training starts from (`train.initial` says where a caller finds it). `resume`, `callbacks` and `schedule` are
    those of `fit`, and `digests` is what else a checkpoint must have been made with (data, code).

    Raises what `fit` and `load_split` raise.
    """
    group, threads = group or ProcessGroup(), threads or cores()
    torch.set_num_threads(threads)
    processes_here = max(1, cores() // threads)
    manifest = read_manifest(shards)
    needed = bytes_needed(recipe, manifest.height) // recipe.train.workers
    room = image_memory(processes_here, needed, group.device)
    images = functools.partial(_images, shards, manifest.digest)
    valid = images("valid", None, manifest.decoded_bytes("valid") > room)
    train: ImageSet | StreamedImages
    if recipe.train.shuffle_shards and train_images is None:
        train = StreamedImages(shards, "train", recipe.train.shuffle_shards, room)
    else:
        train = images("train", train_images, manifest.decoded_bytes("train") > room)
    torch.manual_seed(recipe.train.seed)
    model = build(recipe.model, manifest.height, manifest.width, manifest.mean)
    if initial is not None:
        model.load_state_dict(load_model(initial).state_dict())
    return fit(
        model,
        train,
        valid,
        recipe.data,
        recipe.train,
        group=group,
        resume=resume,
        callbacks=callbacks,
        settings=digests,
        schedule=schedule,
    )


@functools.lru_cache(maxsize=2)
def _images(shards: Place, digest: str, split: str, limit: int | None, on_disk: bool) -> ImageSet:
    """The images of a split; kept, because a process may train several times on one set."""
    return load_split(shards, split, limit, memory=0 if on_disk else None)
