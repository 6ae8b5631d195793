"""Training a model: the loop, its schedules, its checkpoints, the processes that share it."""

from __future__ import annotations

from seqgen.training.checkpoint import Position
from seqgen.training.loop import Progress, fit
from seqgen.training.process_group import ProcessGroup
from seqgen.training.run import run
from seqgen.training.watch import SaveFn, Skipped, Watch, Wish

__all__ = ["Position", "ProcessGroup", "Progress", "SaveFn", "Skipped", "Watch", "Wish", "fit", "run"]
