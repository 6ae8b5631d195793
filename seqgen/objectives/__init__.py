"""What a training minimises (a slot, `contracts`), and bounds on log p(x) that an evaluation reports."""

from seqgen.objectives.contracts import Batch, Objective, Outcome, State, mean_outcome
from seqgen.objectives.importance import (
    Importance,
    importance_estimate,
    importance_weighted,
    importance_work,
    log_importance_weights,
)

__all__ = [
    "Batch",
    "Importance",
    "Objective",
    "Outcome",
    "State",
    "importance_estimate",
    "importance_weighted",
    "importance_work",
    "log_importance_weights",
    "mean_outcome",
]
