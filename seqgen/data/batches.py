"""What a step sees, as a pure function of (seed, epoch, step): order, binarisation or dequantisation, contexts.

Everything is drawn for the global batch and then sliced by rank, so that the trajectory does not depend on
the number of workers, and to resume is arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from seqgen.core.errors import BadInput
from seqgen.data.images import ImageSet
from seqgen.data.new_classes import random_maps, same_map
from seqgen.data.order import generator_at
from seqgen.data.partners import Partners
from seqgen.data.settings import Binarise, DataConfig, Pairs
from seqgen.data.streamed import StreamedImages

_CHUNK = 1024


class Images(NamedTuple):
    """x [B,1,H,W] and its N contexts [B,N,H,W] (None if unconditional): float32 in {0,1}, or grey in [0,1)."""

    x: Tensor
    context: Tensor | None


class FixedSet(NamedTuple):
    """A set binarised once: x uint8 [M,H,W] in {0,1}, or dequantised once: float32 in [0,1); partners int64 [M,N],
    the contexts' indices, or None."""

    x: Tensor
    partners: Tensor | None


def steps_per_epoch(count: int, batch: int) -> int:
    """Full global batches in an epoch; the rest is left out. Raises BadInput if there is none."""
    if count < batch:
        raise BadInput(f"train.batch={batch} exceeds the {count} training images: choose a smaller batch")
    return count // batch


def thresholds(shape: tuple[int, ...], how: Binarise, generator: torch.Generator) -> Tensor | None:
    """What `dynamic` compares levels with and `grey` adds to them: float32 of `shape`, uniform in [0,1); else None."""
    drawn = how in ("dynamic", "grey")
    return torch.rand(shape, generator=generator, device=generator.device) if drawn else None


def binarise(images: Tensor, levels: int, how: Binarise, uniform: Tensor | None) -> Tensor:
    """uint8 [B,H,W] -> float32 [B,1,H,W] in {0,1}, or in [0,1) where they stay `grey`.

    `static` takes bits as they are, `threshold` is grey > 0.5, `dynamic` is Bernoulli(grey): grey > `uniform`
    [B,H,W], which is overwritten. `grey` is `dequantise`.
    """
    if (levels == 2) != (how == "static"):
        raise BadInput(f"data.binarise={how} does not fit images of {levels} levels; shard the set again")
    if how == "static":
        return images.unsqueeze(1).float()
    if how == "threshold":
        return (images > 127).unsqueeze(1).float()
    assert uniform is not None
    if how == "grey":
        return dequantise(images, uniform).unsqueeze(1)
    return uniform.lt_(images / 255).unsqueeze(1)


def dequantise(levels: Tensor, uniform: Tensor) -> Tensor:
    """x = (v + u) / 256 of levels v, uint8, and u in [0,1), float32: in [v, v + 1) / 256.

    u is cut to 16 bits, with which v + u is exact in float32: no x is rounded up into the next level's bin.
    """
    return (levels + (uniform * 2**16).floor() / 2**16) / 256


class TrainingBatches:
    """The batches of a training run, for one rank of `size`; `batch` is the global batch B.

    In a conditional run the number of contexts of a step is drawn uniformly from `contexts`, and until the epoch
    `new_classes_until` images and contexts are mapped into new classes (`random_maps`).
    """

    def __init__(
        self,
        images: ImageSet | StreamedImages,
        data: DataConfig,
        batch: int,
        *,
        conditional: bool,
        seed: int,
        rank: int = 0,
        size: int = 1,
        pairs: Pairs = "character",
        contexts: Sequence[int] = (1,),
        new_classes_until: int = 0,
    ) -> None:
        """Raises BadInput if the batch does not fit the set, the ranks or the pairs asked for."""
        self._images, self._how, self._seed = images, data.binarise, seed
        self._batch = batch
        if self._batch % size:
            raise BadInput(f"train.batch={self._batch} is not divisible by {size} workers: choose a multiple")
        self.steps = steps_per_epoch(len(images), self._batch)
        self._mine = slice(rank * batch // size, (rank + 1) * batch // size)
        self._partners = images.partners(pairs) if conditional else None
        self._contexts, self._new_classes_until = contexts, new_classes_until
        if isinstance(self._partners, Partners) and max(contexts) > self._partners.fewest:
            raise BadInput(
                f"train.contexts={list(contexts)}: an image of the set has {self._partners.fewest} others to be "
                "shown with; choose fewer"
            )
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def at(self, epoch: int, step: int) -> Images:
        """This rank's slice of the global batch `step` (0-based) of `epoch` (0-based)."""
        images, index = self._images, self._index(epoch, step)
        images.prepare(index)
        generator = generator_at(images.device, self._seed, "step", epoch, step)
        x = self._mine_of(index, generator)
        if self._partners is None:
            return Images(x, None)
        partners = self._partners.draw(index, generator, self._count(epoch, step))
        context = [self._mine_of(each, generator) for each in partners.unbind(1)]
        shown = torch.cat(context, 1) if context else x[:, :0]
        if epoch < self._new_classes_until:
            own = generator_at(images.device, self._seed, "new classes", epoch, step)
            x, shown = same_map(x, shown, random_maps(self._batch, own)[self._mine])
        return Images(x, shown)

    def keys(self, epoch: int, step: int) -> list[str]:
        """The names of the images of the whole global batch."""
        return self._images.keys(self._index(epoch, step))

    def _index(self, epoch: int, step: int) -> Tensor:
        """The places of a step's images in the split, of all ranks."""
        if epoch != self._epoch:
            self._order = self._images.order(self._seed, epoch)
            self._epoch = epoch
        return self._order[step * self._batch : (step + 1) * self._batch]

    def _count(self, epoch: int, step: int) -> int:
        """How many contexts the images of a step have."""
        if len(self._contexts) == 1:
            return self._contexts[0]
        generator = generator_at(torch.device("cpu"), self._seed, "contexts", epoch, step)
        return self._contexts[int(torch.randint(len(self._contexts), (), generator=generator))]

    def _mine_of(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """This rank's images of the global batch at `index`: drawn for all, read and made binary here."""
        images = self._images
        uniform = thresholds((len(index), images.height, images.width), self._how, generator)
        pixels = images.pixels(index[self._mine])
        return binarise(pixels, images.levels, self._how, None if uniform is None else uniform[self._mine])


def fixed_set(
    images: ImageSet,
    data: DataConfig,
    conditional: bool,
    seed: int,
    *,
    pairs: Pairs = "character",
    contexts: int = 1,
) -> FixedSet:
    """The set as it is evaluated: binarised or dequantised once, into memory, its contexts drawn once, by `seed`."""
    device, how = images.device, data.binarise
    generator = generator_at(device, seed, "binarise")
    kept = torch.float32 if data.pixels == "grey" else torch.uint8
    x = torch.empty(images.images.shape, dtype=kept, device=device)
    everyone = torch.arange(len(images), device=device)
    for index in everyone.split(_CHUNK):
        uniform = thresholds((len(index), images.height, images.width), how, generator)
        x[index] = binarise(images.pixels(index), images.levels, how, uniform).squeeze(1).to(kept)
    if not conditional:
        return FixedSet(x, None)
    return FixedSet(
        x, Partners(images, pairs).draw(everyone, generator_at(device, seed, "partner"), contexts)
    )
