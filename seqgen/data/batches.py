"""What a step sees, as a pure function of (seed, epoch, step): order, binarisation, partners.

Everything is drawn for the global batch and then sliced by rank, so that the trajectory does not depend on
the number of workers, and to resume is arithmetic.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from seqgen.core.errors import BadInput
from seqgen.data.images import ImageSet
from seqgen.data.settings import Binarise, DataConfig

_CHUNK = 1024


class Images(NamedTuple):
    """x and its context (None if unconditional): float32 [B,1,H,W] in {0,1}."""

    x: Tensor
    context: Tensor | None


class FixedSet(NamedTuple):
    """A set binarised once: x uint8 [N,H,W] in {0,1}; partner int64 [N], the context's index, or None."""

    x: Tensor
    partner: Tensor | None


def generator_at(device: torch.device, *position: int | str) -> torch.Generator:
    """A generator on `device` seeded by `position`, for example (seed, "step", epoch, step)."""
    digest = hashlib.sha256(repr(position).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big"))


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of `count` images in an epoch: a permutation, int64 [count], the same on every device."""
    return torch.randperm(count, generator=generator_at(torch.device("cpu"), seed, "order", epoch))


def steps_per_epoch(count: int, batch: int) -> int:
    """Full global batches in an epoch; the rest is left out. Raises BadInput if there is none."""
    if count < batch:
        raise BadInput(f"train.batch={batch} exceeds the {count} training images: choose a smaller batch")
    return count // batch


def thresholds(shape: tuple[int, ...], how: Binarise, generator: torch.Generator) -> Tensor | None:
    """What `dynamic` compares grey with: float32 of `shape`, uniform in [0,1); None where nothing is drawn."""
    return torch.rand(shape, generator=generator, device=generator.device) if how == "dynamic" else None


def binarise(images: Tensor, levels: int, how: Binarise, uniform: Tensor | None) -> Tensor:
    """uint8 [B,H,W] -> float32 [B,1,H,W] in {0,1}.

    `static` takes bits as they are, `threshold` is grey > 0.5, `dynamic` is Bernoulli(grey): grey > `uniform`
    [B,H,W], which is overwritten.
    """
    if (levels == 2) != (how == "static"):
        raise BadInput(f"data.binarise={how} does not fit images of {levels} levels; shard the set again")
    if how == "static":
        return images.unsqueeze(1).float()
    if how == "threshold":
        return (images > 127).unsqueeze(1).float()
    assert uniform is not None
    return uniform.lt_(images / 255).unsqueeze(1)


class Partners:
    """Draws, for images of a set, another drawing of the same concept, uniformly over the others."""

    def __init__(self, images: ImageSet) -> None:
        """Raises BadInput if an image has no concept, or is the only drawing of its concept."""
        concepts = images.concepts
        if bool((concepts < 0).any()):
            raise BadInput(
                "model.conditional=true: the set has images of unknown concept; use a set with classes"
            )
        present, group, count = concepts.unique(return_inverse=True, return_counts=True)
        if int(count.min()) < 2:
            name = images.concept_names[int(present[count.argmin()])]
            raise BadInput(f"model.conditional=true: concept {name!r} has one drawing, a pair needs two")
        self._order = concepts.argsort(stable=True)
        start = (count.cumsum(0) - count)[group]
        self._start, self._count = start, count[group]
        place = torch.empty_like(self._order)
        place[self._order] = torch.arange(len(place), device=place.device)
        self._place = place - start

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Partners of the images at `index`: int64, the same shape, never the image itself."""
        start, count, place = self._start[index], self._count[index], self._place[index]
        uniform = torch.rand(index.shape, generator=generator, device=index.device, dtype=torch.float64)
        shift = 1 + (uniform * (count - 1)).long().clamp(max=count - 2)
        return self._order[start + (place + shift) % count]


class TrainingBatches:
    """The batches of a training run, for one rank of `size`; `batch` is the global batch B."""

    def __init__(
        self,
        images: ImageSet,
        data: DataConfig,
        batch: int,
        *,
        conditional: bool,
        seed: int,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        """Raises BadInput if the batch does not fit the set, the ranks or the pairs asked for."""
        self._images, self._how, self._seed = images, data.binarise, seed
        self._batch = batch
        if self._batch % size:
            raise BadInput(f"train.batch={self._batch} is not divisible by {size} workers: choose a multiple")
        self.steps = steps_per_epoch(len(images), self._batch)
        self._mine = slice(rank * batch // size, (rank + 1) * batch // size)
        self._partners = Partners(images) if conditional else None
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def at(self, epoch: int, step: int) -> Images:
        """This rank's slice of the global batch `step` (0-based) of `epoch` (0-based)."""
        images = self._images
        if epoch != self._epoch:
            self._order = epoch_order(len(images), self._seed, epoch).to(images.device)
            self._epoch = epoch
        index = self._order[step * self._batch : (step + 1) * self._batch]
        generator = generator_at(images.device, self._seed, "step", epoch, step)
        x, context = self._mine_of(index, generator), None
        if self._partners is not None:
            context = self._mine_of(self._partners.draw(index, generator), generator)
        return Images(x, context)

    def _mine_of(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """This rank's images of the global batch at `index`: drawn for all, read and made binary here."""
        images = self._images
        uniform = thresholds((len(index), images.height, images.width), self._how, generator)
        pixels = images.pixels(index[self._mine])
        return binarise(pixels, images.levels, self._how, None if uniform is None else uniform[self._mine])


def fixed_set(images: ImageSet, data: DataConfig, conditional: bool, seed: int) -> FixedSet:
    """The set as it is evaluated: binarised once, into memory, and paired once from `seed`, whatever the batch."""
    device, how = images.device, data.binarise
    generator = generator_at(device, seed, "binarise")
    x = torch.empty(images.images.shape, dtype=torch.uint8, device=device)
    everyone = torch.arange(len(images), device=device)
    for index in everyone.split(_CHUNK):
        uniform = thresholds((len(index), images.height, images.width), how, generator)
        x[index] = binarise(images.pixels(index), images.levels, how, uniform).squeeze(1).to(torch.uint8)
    if not conditional:
        return FixedSet(x, None)
    return FixedSet(x, Partners(images).draw(everyone, generator_at(device, seed, "partner")))
