"""Training a model: the loop, its schedules, its checkpoints, the processes that share it."""

from __future__ import annotations

from seqgen.training.loop import Progress, SaveFn, fit
from seqgen.training.world import World, share_cores

__all__ = ["Progress", "SaveFn", "World", "fit", "share_cores"]
