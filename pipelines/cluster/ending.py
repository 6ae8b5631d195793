"""The ends of epochs and of runs: which are saved, how a finished run is marked, which commands go on with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipelines.artifacts.history import Row
from seqgen.settings import TrainConfig


def held_out_bound(row: Row, metric: str) -> float:
    """The held-out bound of an epoch in nats; infinite, which is never the best, where it has no finite one."""
    bound = row.get(metric, math.inf)
    return bound if math.isfinite(bound) else math.inf


def is_saved(history: list[Row], metric: str, last: bool, train: TrainConfig) -> bool:
    """Whether the last epoch of `history` is saved. `last` tells that training ends with it.

    Patience waits for an epoch that is better than the best, which therefore is kept, whenever it was.
    """
    if last or history[-1]["epoch"] % train.checkpoint_every == 0:
        return True
    bounds = [held_out_bound(row, metric) for row in history]
    return bool(train.patience) and bounds[-1] < math.inf and bounds[-1] == min(bounds)


def ended(epoch: int, train: TrainConfig) -> dict[str, int]:
    """The mark of a run that ended after `epoch`: by patience if that is not the last."""
    return {"epochs": epoch, **({"patience": train.patience} if epoch < train.epochs else {})}


def goes_on(mark: Mapping[str, Any], train: TrainConfig) -> bool:
    """Whether `train` asks for more than a run with that mark: more epochs and, if it lost patience, more of that."""
    if mark.get("epochs", train.epochs) >= train.epochs:
        return False
    return "patience" not in mark or not train.patience or train.patience > mark["patience"]
