"""A split that is read shard by shard while a training goes through it, wherever it lies: in memory is what is near.

An epoch goes through the shards in random order, a few of them at a time, which are its window: all images of the
window, in random order, then those of the next one (`windowed_order`). So it needs two windows in memory, the present
one and the next, which is read ahead, and no place for the whole set. An image's contexts are of its own shard.
"""

from __future__ import annotations

import copy
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor

from seqgen.core.errors import BadInput
from seqgen.data.images import ImageSet, load_shard, split_of
from seqgen.data.manifest import Place, read_manifest
from seqgen.data.order import shard_order, windowed_order
from seqgen.data.partners import Partners, uniforms
from seqgen.data.settings import Pairs

_THREADS = 2  # that fetch and decode; one may wait for the network while the other decodes
_ABSENT = -(2**62)  # where a shard is that is not in memory: no row of the pool


class StreamedImages:
    """The images of a split, of which only the shards that the next steps need are in memory.

    `window` is the number of shards whose images are shuffled together. If all pixels fit into `memory` bytes (default:
    any number), a shard stays once it was read; otherwise two windows are kept. The batches are the same.
    """

    def __init__(self, place: Place, split: str, window: int, memory: int | None = None) -> None:
        """Raises BadInput if there is no such split, or if two windows do not fit in memory."""
        self._place, self._manifest, self._window = place, read_manifest(place), window
        index = split_of(self._manifest, split, place)
        self.height, self.width, self.levels = (
            self._manifest.height,
            self._manifest.width,
            self._manifest.levels,
        )
        self.device = torch.device("cpu")
        self._shards = index.shards
        self._images = [shard.images for shard in index.shards]
        self._ends = torch.tensor(self._images, dtype=torch.int64).cumsum(0)
        self._stay = memory is None or self._manifest.decoded_bytes(split) <= memory
        # A shard's images are rows of one pool, where each has its own place or one of those for two windows.
        self._starts = (self._ends - torch.tensor(self._images)).tolist()
        largest = max([1, *self._images])
        if self._stay:
            self._pool = self._rows(len(self))
        else:
            self._check_memory(memory or 0, largest * self.height * self.width)
            self._pool = self._rows(2 * window * largest)
        self._free = list(range(0, len(self._pool), largest))
        self._moved = torch.full_like(self._ends, _ABSENT)  # from the place in the set to the row of the pool
        self._here: dict[int, ImageSet] = {}
        self._reading: dict[int, Future[ImageSet]] = {}
        self._partners: dict[tuple[int, Pairs], Partners] = {}
        self._coming: list[int] = []
        self._turn: dict[int, int] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="shards")

    def _check_memory(self, memory: int, shard: int) -> None:
        if (needed := 2 * self._window * shard) > memory:
            fit = memory // (2 * shard)
            remedy = f"choose {fit} or fewer" if fit else "take a machine with more memory, or smaller shards"
            raise BadInput(
                f"train.shuffle_shards={self._window}: two windows of so many shards are {needed:,} bytes of pixels, "
                f"and a process here keeps {memory:,} at most; {remedy}"
            )

    def _rows(self, count: int) -> Tensor:
        return torch.empty((count, self.height, self.width), dtype=torch.uint8)

    def __len__(self) -> int:
        return sum(self._images)

    def to(self, device: torch.device | str) -> StreamedImages:
        """The same set for `device`, where batches are delivered. It takes the place of this one, whose pool it has."""
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
        """Have in memory what the batch of the images at `index` [M] needs, begin with what comes after, drop the rest.

        Raises what `load_shard` raises. One that failed ahead of its time is read once more when it is needed.
        """
        needed = sorted(self._shard_of(index.cpu()).unique().tolist(), key=self._turn.__getitem__)
        first = self._turn[needed[0]] // self._window * self._window
        near = self._coming[first : max(first + 2 * self._window, self._turn[needed[-1]] + 1)]
        if not self._stay:
            for shard in self._here.keys() - near:
                self._drop(shard)
            for shard in self._reading.keys() - near:
                self._reading.pop(shard).cancel()
        for shard in needed:
            if (failed := self._reading.get(shard)) and failed.done() and failed.exception():
                del self._reading[shard]
            self._begin(shard)
        for shard in near:  # no more at once than there are threads: who ends does not wait for many
            if sum(not each.done() for each in self._reading.values()) < _THREADS:
                self._begin(shard)
        for shard, read in list(self._reading.items()):
            if shard in needed or (read.done() and not read.exception()):
                self._take(shard, read.result())

    def pixels(self, index: Tensor) -> Tensor:
        """The images at `index` (int64 [M]), of shards that were prepared, on the set's device: uint8 [M,H,W]."""
        index = index.cpu()
        return self._pool.index_select(0, index + self._moved[self._shard_of(index)]).to(self.device)

    def keys(self, index: Tensor) -> list[str]:
        """A name of each image of `index`: its shard, and its place in the split."""
        places, shards = index.tolist(), self._shard_of(index.cpu()).tolist()
        return [f"{self._shards[shard].name}#{place}" for shard, place in zip(shards, places, strict=True)]

    def partners(self, pairs: Pairs) -> ShardPartners:
        """Who may be whose context: images of the same shard."""
        return ShardPartners(self, pairs)

    def choose(self, pairs: Pairs, index: Tensor, uniform: Tensor) -> Tensor:
        """Contexts of the images at `index` [M], as `Partners.choose` chooses them in each shard: int64 [M,count]."""
        index = index.cpu()
        shard_of = self._shard_of(index)
        chosen = torch.empty(uniform.shape, dtype=torch.int64)
        for shard in shard_of.unique().tolist():
            key, rows, start = (shard, pairs), shard_of == shard, self._starts[shard]
            try:
                if key not in self._partners:
                    self._partners[key] = Partners(self._here[shard], pairs)
                chosen[rows] = start + self._partners[key].choose(index[rows] - start, uniform[rows])
            except BadInput as error:
                raise BadInput(
                    f"{error} (with train.shuffle_shards contexts are of the image's shard, here "
                    f"{self._shards[shard].name})"
                ) from None
        return chosen.to(self.device)

    def _shard_of(self, index: Tensor) -> Tensor:
        return torch.searchsorted(self._ends, index.contiguous(), right=True)

    def _begin(self, shard: int) -> None:
        if shard not in self._here and shard not in self._reading:
            self._reading[shard] = self._threads.submit(
                load_shard, self._place, self._manifest, self._shards[shard]
            )

    def _take(self, shard: int, read: ImageSet) -> None:
        """Put what was read into the pool."""
        del self._reading[shard]
        if self._stay:
            row = self._starts[shard]
        else:
            if not self._free:  # a batch that is larger than two windows
                self._free.append(len(self._pool))
                self._pool = torch.cat([self._pool, self._rows(max(self._images))])
            row = self._free.pop()
        rows = self._pool[row : row + len(read)]
        rows.copy_(read.images)
        self._here[shard] = replace(read, images=rows)
        self._moved[shard] = row - self._starts[shard]

    def _drop(self, shard: int) -> None:
        del self._here[shard]
        self._free.append(int(self._moved[shard]) + self._starts[shard])
        self._moved[shard] = _ABSENT
        self._partners = {key: value for key, value in self._partners.items() if key[0] != shard}


class ShardPartners:
    """Draws contexts as `Partners` does, uniformly over what `pairs` allows in the image's own shard."""

    def __init__(self, images: StreamedImages, pairs: Pairs) -> None:
        self._images, self._pairs = images, pairs

    def draw(self, index: Tensor, generator: torch.Generator, count: int = 1) -> Tensor:
        """`count` different partners of each image at `index` [M]: int64 [M,count]. Raises BadInput."""
        return self._images.choose(self._pairs, index, uniforms(index, generator, count).cpu())
