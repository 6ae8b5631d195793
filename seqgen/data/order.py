"""The order of an epoch, as a pure function of (seed, epoch): over the whole set, or over a few shards at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_CPU = torch.device("cpu")


def generator_at(device: torch.device, *position: int | str) -> torch.Generator:
    """A generator on `device` seeded by `position`, for example (seed, "step", epoch, step)."""
    digest = hashlib.sha256(repr(position).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big"))


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of `count` images in an epoch: a permutation, int64 [count], the same on every device."""
    return torch.randperm(count, generator=generator_at(_CPU, seed, "order", epoch))


def shard_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of `count` shards in an epoch that goes through them one after the other: int64 [count]."""
    return torch.randperm(count, generator=generator_at(_CPU, seed, "shards", epoch))


def windowed_order(images: Sequence[int], window: int, seed: int, epoch: int) -> Tensor:
    """The order of the images of shards that hold `images` each, a permutation of the set, int64 [N].

    The shards stand in `shard_order`; so many of them at a time as `window` says give their images, in random order.
    """
    ends = torch.tensor(images, dtype=torch.int64).cumsum(0).tolist()
    generator = generator_at(_CPU, seed, "order", epoch)
    windows = []
    for shards in shard_order(len(images), seed, epoch).split(window):
        index = torch.cat(
            [torch.arange(ends[shard] - images[shard], ends[shard]) for shard in shards.tolist()]
        )
        windows.append(index[torch.randperm(len(index), generator=generator)])
    return torch.cat(windows)
