"""How much memory a training step needs, well enough to refuse what cannot fit before anything is started."""

from __future__ import annotations

import math

import torch

from seqgen.core.machine import memory
from seqgen.models.attention import FullContext
from seqgen.settings import ModelConfig, Recipe

# Floats kept for the backward pass, per step and image, fitted to measured peaks of the pure torch path (within a
# third of them); the native kernels keep less.
_CGRU, _ADDITIVE, _ERROR_IMAGE = 10, 2.5, 10  # per canvas value, per canvas value, per pixel
_PER_HIDDEN = 20
_COPIES = 5  # weights, gradients, two moments, average


def training_bytes(model: ModelConfig, size: int, batch: int, recompute: int = 0) -> int:
    """About how many bytes a process needs to train on `batch` images of `size` x `size` pixels a step.

    `recompute` as in TrainConfig: all is kept for so many steps at a time only, and the state where they begin.
    """
    pixels = size * size
    canvas = pixels * model.canvas_channels
    kept = canvas * (_CGRU if model.canvas == "cgru" else _ADDITIVE) + _PER_HIDDEN * model.hidden
    if model.error_image:
        kept += _ERROR_IMAGE * pixels
    steps = kept * model.steps
    if 0 < recompute < model.steps:
        steps = kept * recompute + (canvas + 4 * model.hidden) * math.ceil(model.steps / recompute)
    return int(4 * (_COPIES * _weights(model, pixels) + batch * steps))


def _weights(model: ModelConfig, pixels: int) -> int:
    full = model.attention == "full"
    read = pixels if full else model.read_size**2
    write = (pixels if full else model.write_size**2) * model.canvas_channels
    glimpse = read * (2 if model.error_image else 1)
    context = (FullContext.features if full else read) if model.conditional else 0
    lstm = 4 * model.hidden * (model.hidden + model.latents + context)
    if full:
        lstm += context * pixels  # the context's projection
    if model.inference == "encoder":
        posterior = 4 * model.hidden * (2 * model.hidden + glimpse)
    else:
        posterior = model.posterior_hidden * (glimpse + model.hidden)
    return lstm + posterior + model.hidden * write


def bytes_needed(recipe: Recipe) -> int:
    """About the memory that all workers of a training take together."""
    train = recipe.train
    each = training_bytes(recipe.model, recipe.data.size, train.batch // train.workers, train.recompute)
    return train.workers * each


def image_memory(processes: int = 1, training: int = 0, device: torch.device | None = None) -> int:
    """The bytes up to which each of `processes` on this machine keeps decoded images in memory; more is mapped.

    A quarter of what `training` bytes leave: another for held-out images, one for their binarised copy, one for
    the process. So what a training needs can be told without its images: they take what it leaves.
    """
    room = memory() // processes
    if device is None or device.type == "cpu":
        return max(0, room - training) // 4
    return max(0, min(room, torch.cuda.mem_get_info(device)[0] - training)) // 4
