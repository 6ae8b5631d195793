"""Whether a training has room on a machine or a cluster, and on which device: known before any is asked for."""

from __future__ import annotations

from typing import Literal

import torch

from seqgen.core.errors import BadInput
from seqgen.core.machine import Device, Resources, cores, memory
from seqgen.settings import Recipe
from seqgen.training.memory import bytes_needed


def this_machine() -> Resources:
    """The cores this process may use, the GPUs that PyTorch sees, the memory."""
    return Resources(cores(), torch.cuda.device_count(), memory())


def device_for(recipe: Recipe, resources: Resources, wanted: Device | Literal["auto"] = "auto") -> Device:
    """The device for the recipe's workers, one CPU (and one GPU) each; "auto": GPUs if every worker can have one.

    Where fewer workers will do (`train.fewest_workers`), that is for so many.

    Raises BadInput without room.
    """
    workers, owner = recipe.train.fewest_workers or recipe.train.workers, resources.owner
    if workers > resources.cpus:
        raise BadInput(
            f"train.workers={workers}: {owner} has {resources.cpus} CPUs; "
            f"use --workers {max(1, resources.cpus)} or less"
        )
    if wanted == "cuda" and workers > resources.gpus:
        raise BadInput(
            f"train.workers={workers} with --device cuda: {owner} has {resources.gpus} GPUs; "
            "use fewer --workers or --device cpu"
        )
    if wanted != "cpu" and workers <= resources.gpus:
        return "cuda"
    if (needed := bytes_needed(recipe)) > resources.memory:
        raise BadInput(
            f"model.steps={recipe.model.steps} with train.batch={recipe.train.batch} needs about "
            f"{needed / 2**30:.0f} GiB and {owner} has {resources.memory / 2**30:.0f} GiB; lower one of them, "
            "or set train.recompute or train.accumulate"
        )
    return "cpu"
