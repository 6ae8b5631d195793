"""A split that is read shard by shard while a training goes through it, wherever it lies: in memory is what is near.

An epoch goes through the shards in random order, a few of them at a time, which are its window: all images of the
window, in random order, then those of the next one (`windowed_order`). So it needs two windows in memory, the present
one and the next, which is read ahead, and no place for the whole set. An image's contexts are of its own shard.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from seqgen.core.errors import BadInput
from seqgen.data.images import ImageSet, load_shard, split_of
from seqgen.data.manifest import Place, read_manifest
from seqgen.data.order import shard_order, windowed_order
from seqgen.data.partners import Partners, uniforms
from seqgen.data.settings import Pairs

_THREADS = 2  # that fetch and decode; one may wait for the network while the other decodes


class Part(NamedTuple):
    """What one shard has of a batch: the rows of the batch, the places in the shard, and where its images begin."""

    shard: int
    rows: Tensor
    local: Tensor
    start: int


class StreamedImages:
    """The images of a split, of which only the shards that the next steps need are in memory.

    `window` is the number of shards whose images are shuffled together. If all pixels fit into `memory` bytes (default:
    any number), a shard stays once it was read; otherwise two windows are kept. The batches are the same.
    """

    def __init__(self, place: Place, split: str, window: int, memory: int | None = None) -> None:
        """Raises BadInput if there is no such split, or if two windows do not fit in memory."""
        self._place, self._manifest, self._window = place, read_manifest(place), window
        index = split_of(self._manifest, split, place)
        self._shards = index.shards
        self._images = [shard.images for shard in index.shards]
        self._ends = torch.tensor(self._images, dtype=torch.int64).cumsum(0)
        self.height, self.width, self.levels = (
            self._manifest.height,
            self._manifest.width,
            self._manifest.levels,
        )
        self.device = torch.device("cpu")
        self._stay = memory is None or self._manifest.decoded_bytes(split) <= memory
        self._check_memory(memory)
        self._coming: list[int] = list(range(len(self._shards)))
        self._turn = {shard: turn for turn, shard in enumerate(self._coming)}
        self._read: dict[int, Future[ImageSet]] = {}
        self._partners: dict[tuple[int, Pairs], Partners] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="shards")

    def _check_memory(self, memory: int | None) -> None:
        pixels = self.height * self.width
        largest = sorted((images * pixels for images in self._images), reverse=True)
        needed = sum(largest[: 2 * self._window])
        if memory is None or self._stay or needed <= memory:
            return
        fit = sum(1 for shards in range(2, len(largest) + 1, 2) if sum(largest[:shards]) <= memory)
        raise BadInput(
            f"train.shuffle_shards={self._window}: two windows of so many shards are {needed:,} bytes of pixels, and a "
            f"process here keeps {memory:,} at most; "
            + (
                f"choose {fit} or fewer"
                if fit
                else "a machine with more memory, or smaller shards, are needed"
            )
        )

    def __len__(self) -> int:
        return sum(self._images)

    def to(self, device: torch.device | str) -> StreamedImages:
        """The same set for `device`, where batches are delivered; what is read is shared."""
        there = copy.copy(self)
        there.device = torch.device(device)
        return there

    def order(self, seed: int, epoch: int) -> Tensor:
        """The order of an epoch, a permutation of the set, int64 [N], on the set's device; it is read in this order."""
        count = len(self._shards)
        here, then = (shard_order(count, seed, each).tolist() for each in (epoch, epoch + 1))
        self._coming = [*here, *then[: self._window]]
        self._turn = {shard: turn for turn, shard in enumerate(here)}
        return windowed_order(self._images, self._window, seed, epoch).to(self.device)

    def prepare(self, index: Tensor) -> None:
        """Begin to read what the batch of the images at `index` [M] needs and what comes after; drop the rest."""
        turns = sorted({self._turn[part.shard] for part in self._parts(index)})
        first = turns[0] // self._window * self._window
        near = self._coming[first : max(first + 2 * self._window, turns[-1] + 1)]
        if not self._stay:
            for shard in self._read.keys() - near:
                self._read.pop(shard).cancel()
            self._partners = {key: value for key, value in self._partners.items() if key[0] in self._read}
        for turn in turns:
            self._begin(self._coming[turn])
        for shard in near:  # no more at once than there are threads: who ends does not wait for many
            if sum(not each.done() for each in self._read.values()) < _THREADS:
                self._begin(shard)

    def pixels(self, index: Tensor) -> Tensor:
        """The images at `index` (int64 [M]) on the set's device: uint8 [M,H,W]. Raises what reading a shard raises."""
        found = torch.empty((len(index), self.height, self.width), dtype=torch.uint8)
        for part in self._parts(index):
            found[part.rows] = self._shard(part.shard).images[part.local]
        return found.to(self.device)

    def partners(self, pairs: Pairs) -> ShardPartners:
        """Who may be whose context: images of the same shard."""
        return ShardPartners(self, pairs)

    def choose(self, pairs: Pairs, index: Tensor, uniform: Tensor) -> Tensor:
        """Contexts of the images at `index` [M], as `Partners.choose` chooses them in each shard: int64 [M,count]."""
        chosen = torch.empty(uniform.shape, dtype=torch.int64)
        for part in self._parts(index):
            key = part.shard, pairs
            try:
                if key not in self._partners:
                    self._partners[key] = Partners(self._shard(part.shard), pairs)
                within = self._partners[key].choose(part.local, uniform[part.rows])
            except BadInput as error:
                name = self._shards[part.shard].name
                raise BadInput(
                    f"{error} (with train.shuffle_shards contexts are of the image's shard, here {name})"
                ) from None
            chosen[part.rows] = part.start + within
        return chosen.to(self.device)

    def _parts(self, index: Tensor) -> Iterator[Part]:
        index = index.cpu().contiguous()
        shard_of = torch.searchsorted(self._ends, index, right=True)
        for shard in shard_of.unique().tolist():
            rows = (shard_of == shard).nonzero().squeeze(1)
            start = int(self._ends[shard]) - self._images[shard]
            yield Part(shard, rows, index[rows] - start, start)

    def _begin(self, shard: int) -> Future[ImageSet]:
        """Have a shard read, unless that has begun; one that failed is tried again."""
        begun = self._read.get(shard)
        if begun is None or begun.cancelled() or (begun.done() and begun.exception()):
            begun = self._threads.submit(load_shard, self._place, self._manifest, self._shards[shard])
            self._read[shard] = begun
        return begun

    def _shard(self, shard: int) -> ImageSet:
        return self._begin(shard).result()


class ShardPartners:
    """Draws contexts as `Partners` does, uniformly over what `pairs` allows in the image's own shard."""

    def __init__(self, images: StreamedImages, pairs: Pairs) -> None:
        self._images, self._pairs = images, pairs

    def draw(self, index: Tensor, generator: torch.Generator, count: int = 1) -> Tensor:
        """`count` different partners of each image at `index` [M]: int64 [M,count]. Raises BadInput."""
        return self._images.choose(self._pairs, index, uniforms(index, generator, count).cpu())
