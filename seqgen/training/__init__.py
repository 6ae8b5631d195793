"""Training a model: the loop, its schedules, its checkpoints, the processes that share it."""

from __future__ import annotations

from seqgen.training.callbacks import Callback, EachEpoch, Progress, SaveFn, Skipped, Wish
from seqgen.training.checkpoint import Position
from seqgen.training.loop import fit
from seqgen.training.process_group import ProcessGroup
from seqgen.training.run import run

__all__ = [
    "Callback",
    "EachEpoch",
    "Position",
    "ProcessGroup",
    "Progress",
    "SaveFn",
    "Skipped",
    "Wish",
    "fit",
    "run",
]
