"""One split of a sharded set, decoded once into one tensor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_prep.errors import BadInput, OperationalError
from data_prep.manifest import check_shard_bytes, read_manifest
from data_prep.shards import read_shard

_SPREAD_SEED = 0


@dataclass(frozen=True)
class ImageSet:
    """Images with what is known of them.

    images: uint8 [N,H,W], ink = 1 of `levels` 2 or grey 0..255 of `levels` 256; concepts: int64 [N], an index
    into `concept_names` or -1 where unknown; alphabets: int64 [N] or -1.
    """

    images: Tensor
    levels: int
    concepts: Tensor
    alphabets: Tensor
    concept_names: tuple[str, ...]

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

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with its tensors on `device`."""
        return replace(
            self,
            images=self.images.to(device),
            concepts=self.concepts.to(device),
            alphabets=self.alphabets.to(device),
        )

    def take(self, index: Tensor) -> ImageSet:
        """The set of the images at `index` (int64 [M]), in that order."""
        return replace(
            self, images=self.images[index], concepts=self.concepts[index], alphabets=self.alphabets[index]
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


def load_split(directory: Path, split: str, limit: int | None = None) -> ImageSet:
    """Read and verify the shards of `split` under `directory`; `limit` as in `ImageSet.spread`.

    Raises BadInput if there is no such split, OperationalError naming the shard if it is damaged.
    """
    manifest = read_manifest(directory)
    if split not in manifest.splits:
        raise BadInput(f"{directory}: no split {split!r}; it has {', '.join(manifest.splits)}")
    index = manifest.splits[split]
    images = np.empty((index.images, manifest.height, manifest.width), np.uint8)
    concepts: list[str | None] = []
    alphabets: list[str | None] = []
    for shard in index.shards:
        check_shard_bytes(directory, shard)
        before = len(concepts)
        for drawings, meta in read_shard(directory / shard.name):
            start, stop = len(concepts), len(concepts) + len(drawings)
            if stop > index.images or drawings.shape[1:] != images.shape[1:]:
                raise OperationalError(
                    f"{directory / shard.name}: holds more or other images than the manifest says"
                )
            images[start:stop] = drawings
            labels = [meta["concept"]] * len(drawings) if meta["concept"] is not None else meta["labels"]
            concepts += [None if label is None else str(label) for label in labels or [None] * len(drawings)]
            alphabets += [meta["alphabet"]] * len(drawings)
        if len(concepts) - before != shard.images:
            raise OperationalError(
                f"{directory / shard.name}: {len(concepts) - before} images, not {shard.images}"
            )
    if len(concepts) != index.images:
        raise OperationalError(
            f"{directory}: {len(concepts)} images of {split}, the manifest says {index.images}"
        )
    concept_ids, names = _number(concepts)
    loaded = ImageSet(torch.from_numpy(images), manifest.levels, concept_ids, _number(alphabets)[0], names)
    return loaded.spread(limit)


def _number(names: list[str | None]) -> tuple[Tensor, tuple[str, ...]]:
    known = sorted({name for name in names if name is not None})
    number: dict[str | None, int] = {name: position for position, name in enumerate(known)}
    number[None] = -1
    return torch.tensor([number[name] for name in names], dtype=torch.int64), tuple(known)
