"""One split of a sharded set, decoded once into one tensor: in memory, or in a mapped file; or one shard of it."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seqgen.core.errors import BadInput, OperationalError
from seqgen.data.manifest import Manifest, Place, Shard, SplitIndex, read_manifest
from seqgen.data.memory_mapped import MappedImages, spill_directory
from seqgen.data.order import epoch_order
from seqgen.data.partners import Partners
from seqgen.data.settings import Pairs
from seqgen.data.shards import read_shard

_SPREAD_SEED = 0


@dataclass(frozen=True)
class ImageSet:
    """Images with what is known of them.

    images: uint8 [N,H,W], ink = 1 of `levels` 2 or grey 0..255 of `levels` 256; concepts: int64 [N], an index
    into `concept_names` or -1 where unknown; alphabets: int64 [N] or -1. `memory_map` is the file that `images`
    lie in, where they are not in memory.
    """

    images: Tensor
    levels: int
    concepts: Tensor
    alphabets: Tensor
    concept_names: tuple[str, ...]
    memory_map: MappedImages | None = None

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def height(self) -> int:
        """Rows of an image, in pixels."""
        return self.images.shape[1]

    @property
    def width(self) -> int:
        """Columns of an image, in pixels."""
        return self.images.shape[2]

    @property
    def device(self) -> torch.device:
        """Where batches are drawn and delivered; mapped images stay on their disk."""
        return self.concepts.device

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set for `device`, with its tensors there; nothing is copied on the device it is on."""
        return replace(
            self,
            images=self.images if self.memory_map else self.images.to(device),
            concepts=self.concepts.to(device),
            alphabets=self.alphabets.to(device),
        )

    def pixels(self, index: Tensor) -> Tensor:
        """The images at `index` (int64 [M]) on the set's device: uint8 [M,H,W]."""
        index = index.to(self.images.device)
        if self.memory_map:
            self.memory_map.ask_for(index)
        return self.images.index_select(0, index).to(self.device)

    def keys(self, index: Tensor) -> list[str]:
        """A name of each image of `index`: its concept, if it has one, and its place in the split."""
        concepts = self.concepts[index].tolist()
        return [
            f"{self.concept_names[concept] if concept >= 0 else ''}#{place}"
            for concept, place in zip(concepts, index.tolist(), strict=True)
        ]

    def order(self, seed: int, epoch: int) -> Tensor:
        """The order of an epoch: a permutation of the whole set, int64 [N], on the set's device."""
        return epoch_order(len(self), seed, epoch).to(self.device)

    def prepare(self, index: Tensor) -> None:
        """Nothing: all images are at hand, whatever the next batch is made of."""

    def partners(self, pairs: Pairs) -> Partners:
        """Who may be whose context. Raises BadInput as `Partners` does."""
        return Partners(self, pairs)

    def take(self, index: Tensor) -> ImageSet:
        """The set of the images at `index` (int64 [M]), in that order, in memory."""
        return replace(
            self,
            images=self.pixels(index),
            concepts=self.concepts[index],
            alphabets=self.alphabets[index],
            memory_map=None,
        )

    def spread(self, limit: int | None) -> ImageSet:
        """At most `limit` images, always the same, spread evenly over the concepts and inside each.

        Two drawings at least of every concept taken (if it has them), so that pairs can still be drawn.
        """
        if limit is None or limit >= len(self):
            return self
        return self.take(_spread_index(self.concepts, limit))


def _spread_index(concepts: Tensor, limit: int) -> Tensor:
    present, group, counts = concepts.unique(return_inverse=True, return_counts=True)
    wanted = min(len(present), max(1, limit // 2))
    chosen = torch.zeros(len(present), dtype=torch.bool)
    chosen[torch.arange(wanted) * len(present) // wanted] = True
    shuffled = torch.randperm(len(concepts), generator=torch.Generator().manual_seed(_SPREAD_SEED))
    by_group = shuffled[group[shuffled].argsort(stable=True)]
    turn = torch.arange(len(concepts)) - (counts.cumsum(0) - counts)[group[by_group]]
    order = by_group[turn.argsort(stable=True)]
    return order[chosen[group[order]]][:limit].sort().values


def load_split(
    place: Place,
    split: str,
    limit: int | None = None,
    *,
    memory: int | None = None,
    spill: Path | None = None,
) -> ImageSet:
    """Read and verify the shards of `split` of the set at `place`; `limit` as in `ImageSet.spread`.

    If all its pixels take more than `memory` bytes, they are decoded into a file in `spill` (default
    `spill_directory()`) and mapped: the same set, with the same batches. What a limit takes is in memory.

    Raises BadInput if there is no such split, OperationalError naming the shard if it is damaged or the
    directory if the disk is full.
    """
    manifest = read_manifest(place)
    index = split_of(manifest, split, place)
    mapped = memory is not None and manifest.decoded_bytes(split) > memory
    return _loaded(place, split, manifest, index, (spill or spill_directory()) if mapped else None).spread(
        limit
    )


def load_shard(place: Place, manifest: Manifest, shard: Shard) -> ImageSet:
    """The images of one shard by themselves, in memory; verified as `load_split` does it."""
    return _loaded(place, shard.name, manifest, SplitIndex(images=shard.images, concepts=(), shards=(shard,)))


def split_of(manifest: Manifest, split: str, place: Place) -> SplitIndex:
    """What the manifest of the set at `place` says of a split. Raises BadInput if there is none of this name."""
    if split not in manifest.splits:
        raise BadInput(f"{place}: no split {split!r}; it has {', '.join(manifest.splits)}")
    return manifest.splits[split]


def _loaded(
    place: Place, what: str, manifest: Manifest, index: SplitIndex, spill: Path | None = None
) -> ImageSet:
    shape = (index.images, manifest.height, manifest.width)
    concepts, alphabets = _Names(), _Names()
    parts = _decoded(place, what, index, shape, concepts, alphabets)
    memory_map = MappedImages(parts, shape, spill) if spill else None
    images = memory_map.images if memory_map else _joined(parts, shape)
    concept_ids, names = concepts.numbered()
    return ImageSet(images, manifest.levels, concept_ids, alphabets.numbered()[0], names, memory_map)


def _joined(parts: Iterable[np.ndarray], shape: tuple[int, int, int]) -> Tensor:
    images, filled = np.empty(shape, np.uint8), 0
    for part in parts:
        images[filled : filled + len(part)] = part
        filled += len(part)
    return torch.from_numpy(images)


def _decoded(
    place: Place,
    what: str,
    index: SplitIndex,
    shape: tuple[int, int, int],
    concepts: _Names,
    alphabets: _Names,
) -> Iterator[np.ndarray]:
    """The images of every sample, uint8 [n,H,W], exactly those of `shape` in all; fills in the names."""
    for shard in index.shards:
        for drawings, meta in read_shard(place, shard):
            if len(concepts) + len(drawings) > shape[0] or drawings.shape[1:] != shape[1:]:
                raise OperationalError(
                    f"{place}/{shard.name}: holds more or other images than the manifest says"
                )
            labels = [meta["concept"]] * len(drawings) if meta["concept"] is not None else meta["labels"]
            concepts.extend(labels or [None] * len(drawings))
            alphabets.extend([meta["alphabet"]] * len(drawings))
            yield drawings
    if len(concepts) != index.images:
        raise OperationalError(f"{place}: {len(concepts)} images of {what}, the manifest says {index.images}")


class _Names:
    """A name for every image, None where it is unknown; kept as numbers, for there may be very many images."""

    def __init__(self) -> None:
        self._known: dict[str | None, int] = {}
        self._of_image = array("q")

    def __len__(self) -> int:
        return len(self._of_image)

    def extend(self, names: Iterable[object]) -> None:
        """Append the names of the next images."""
        for name in names:
            key = None if name is None else str(name)
            self._of_image.append(self._known.setdefault(key, len(self._known)))

    def numbered(self) -> tuple[Tensor, tuple[str, ...]]:
        """The number of each image's name in their order, int64 [N], -1 where unknown; all names in order."""
        names = sorted(name for name in self._known if name is not None)
        number: dict[str | None, int] = {name: position for position, name in enumerate(names)}
        numbers = torch.tensor([number.get(name, -1) for name in self._known], dtype=torch.int64)
        return numbers[torch.from_numpy(np.array(self._of_image, np.int64))], tuple(names)
