"""The shard contract (settings, manifest, shards; no torch) and its reader: order from (seed, epoch, step)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqgen.data.batches import Images, TrainingBatches
    from seqgen.data.images import ImageSet, load_split

__all__ = ["ImageSet", "Images", "TrainingBatches", "load_split"]


def __getattr__(name: str) -> Any:
    """The reader, imported when first used: the contract needs no torch."""
    if name in __all__:
        module = "images" if name in ("ImageSet", "load_split") else "batches"
        return getattr(importlib.import_module(f"seqgen.data.{module}"), name)
    raise AttributeError(f"module 'seqgen.data' has no attribute {name!r}")
