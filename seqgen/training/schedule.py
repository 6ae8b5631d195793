"""What changes with the step: the learning rate, the decay of the averaged weights.

Both are functions of `step`, the number of optimiser steps already taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from seqgen.settings import TrainConfig

# rate(step, total, config), of `total` steps in all.
Schedule = Callable[[int, int, TrainConfig], float]


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Rises linearly over `warmup_steps`, then falls as a cosine to `final_rate` of its peak at `total`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * fall)


def average_decay(step: int, decay: float) -> float:
    """min(decay, (1 + step) / (10 + step)): a young average forgets its start quickly."""
    return min(decay, (1 + step) / (10 + step))
