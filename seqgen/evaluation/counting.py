"""How often a model that says how many objects are in an image says the right number (Eslami et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from seqgen.data.batches import generator_at
from seqgen.evaluation.bounds import CHUNK, Advance, HeldOut
from seqgen.evaluation.errors import Estimate, estimate
from seqgen.models import SequentialModel


class CountAccuracy(NamedTuple):
    """`accuracy`: the share of images counted right; confusion: images by (true, inferred) count, int64 [M,M]."""

    accuracy: Estimate
    confusion: Tensor


def count_accuracy(inferred: Tensor, true: Tensor) -> CountAccuracy:
    """Compare `inferred` and `true` numbers of objects, int64 [N] and not negative, image by image.

    M is one more than the largest of either. The standard error takes images as independent. Raises BadInput for fewer
    than 2 images, ValueError where the two are not of the same images.
    """
    if inferred.shape != true.shape:
        raise ValueError(f"{len(inferred)} inferred counts for {len(true)} images")
    accuracy = estimate((inferred == true).double())
    size = int(torch.maximum(inferred, true).max()) + 1
    confusion = torch.bincount(size * true + inferred, minlength=size**2).view(size, size)
    return CountAccuracy(accuracy, confusion)


def counter(model: SequentialModel) -> Callable[[Tensor], Tensor] | None:
    """`counts` of the model's latents, z [T,B,K] -> the number of objects in each drawing, int [B]; None without."""
    return getattr(model.step.latents, "counts", None)


@torch.no_grad()
def inferred_counts(
    model: SequentialModel, held_out: HeldOut, seed: int, advance: Advance | None = None
) -> Tensor:
    """The number of objects in one posterior sample of every image: int64 [N] on the CPU.

    The noise depends on `seed` and the position alone. Raises ValueError if the model has no `counter`.
    """
    counts = counter(model)
    if counts is None:
        raise ValueError("the model's latents do not say how many objects there are")
    device = next(model.parameters()).device
    found = []
    for number, (x, _) in enumerate(held_out.chunks(CHUNK, device)):
        noise = model.noise(len(x), generator_at(torch.device("cpu"), seed, "count", number)).to(device)
        z = model.infer(x, None, noise).z
        found.append(counts(z).long().cpu())
        if advance:
            advance(len(x))
    return torch.cat(found)
