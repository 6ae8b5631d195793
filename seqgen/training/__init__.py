"""Training a model: the loop, its schedules, its checkpoints, the processes that share it."""

from __future__ import annotations

from seqgen.training.loop import Progress, SaveFn, fit
from seqgen.training.process_group import ProcessGroup
from seqgen.training.run import run

__all__ = ["ProcessGroup", "Progress", "SaveFn", "fit", "run"]
