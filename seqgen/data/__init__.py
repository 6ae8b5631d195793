"""Manifest and shards to batches: every batch is a pure function of (seed, epoch, step)."""

from __future__ import annotations

from seqgen.data.batches import Batch, TrainingBatches
from seqgen.data.images import ImageSet, load_split

__all__ = ["Batch", "ImageSet", "TrainingBatches", "load_split"]
