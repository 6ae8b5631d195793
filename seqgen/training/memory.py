"""How much memory a training step needs, well enough to refuse what cannot fit before anything is started."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, UntypedStorage
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_leaves

from seqgen import native
from seqgen.core.machine import memory
from seqgen.models import build
from seqgen.settings import ModelConfig, Recipe

_LOOKED_AT = 8  # steps that are counted; the steps of most members are all alike
_COPIES = 5  # weights, gradients, two moments, average


def training_bytes(model: ModelConfig, size: int, batch: int, recompute: int = 0) -> int:
    """About how many bytes a process needs to train on `batch` images of `size` x `size` pixels a step.

    What autograd keeps of a step in torch is counted for one image; the fused operations keep less.
    `recompute` as in TrainConfig: all is kept for so many steps at a time only, and the state where they begin.
    """
    weights, kept, once, state = _counted(model.model_dump_json(), size)
    steps = kept * model.steps
    if 0 < recompute < model.steps:
        steps = kept * recompute + state * math.ceil(model.steps / recompute)
    return _COPIES * weights + batch * (steps + once)


@functools.lru_cache(maxsize=256)
def _counted(model: str, size: int) -> tuple[int, int, int, int]:
    """Bytes of the weights; and for one image those kept for the backward pass of one step and of the likelihood, and
    those of a step's state.
    """
    config = ModelConfig.model_validate_json(model)
    for (
        kind
    ) in config.kinds():  # a constant of a module that is first imported below would have no memory, for ever
        kind.load()
    with (
        FakeTensorMode(),
        native.using("none"),
    ):  # tensors without memory: this is to refuse what does not fit
        made = build(config, size, size)
        step, image = made.step, torch.zeros(1, 1, size, size)
        noise = made.noise(1, torch.Generator())
        observed = step.observe(image, image if config.conditional else None)
        state = step.start(1)
        kept: dict[int, UntypedStorage] = {}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            for t, noise_t in enumerate(noise[:_LOOKED_AT]):
                state, _ = step(t, state, noise_t, observed)
            of_steps = set(kept)
            step.observation.log_likelihood(step.observation(state.canvas), image)
    for given in (*made.parameters(), image):
        kept.pop(given.untyped_storage()._cdata, None)
    weights = sum(parameter.nbytes for parameter in made.parameters())
    each = sum(s.nbytes() for key, s in kept.items() if key in of_steps) // min(config.steps, _LOOKED_AT)
    once = sum(s.nbytes() for key, s in kept.items() if key not in of_steps)
    return weights, each, once, sum(part.nbytes for part in tree_leaves(state))


def bytes_needed(recipe: Recipe, side: int | None = None) -> int:
    """About the memory that all workers of a training take together on images of `side` pixels, or of the recipe's."""
    train = recipe.train
    pairs = train.batch // (train.workers * train.accumulate) * getattr(train, "importance_samples", 1)
    each = training_bytes(recipe.model, side or recipe.data.side, pairs, train.recompute)
    return train.workers * each


def checkpoint_bytes(recipe: Recipe) -> int:
    """About what a checkpoint takes on a disk: the weights, their average, the two moments."""
    weights, *_ = _counted(recipe.model.model_dump_json(), recipe.data.size)
    return 4 * weights


def image_memory(processes: int = 1, training: int = 0, device: torch.device | None = None) -> int:
    """The bytes up to which each of `processes` on this machine keeps decoded images in memory; more is mapped.

    A quarter of what `training` bytes leave: another for held-out images, one for their binarised copy, one for
    the process. So what a training needs can be told without its images: they take what it leaves.
    """
    room = memory() // processes
    if device is None or device.type == "cpu":
        return max(0, room - training) // 4
    return max(0, min(room, torch.cuda.mem_get_info(device)[0] - training)) // 4
