"""How a finished run is marked, and which commands go on with it all the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seqgen.settings import TrainConfig


def ended(epoch: int, train: TrainConfig) -> dict[str, int]:
    """The mark of a run that ended after `epoch`: by patience if that is not the last."""
    return {"epochs": epoch, **({"patience": train.patience} if epoch < train.epochs else {})}


def goes_on(mark: Mapping[str, Any], train: TrainConfig) -> bool:
    """Whether `train` asks for more than a run with that mark: more epochs and, if it lost patience, more of that."""
    if mark.get("epochs", train.epochs) >= train.epochs:
        return False
    return "patience" not in mark or not train.patience or train.patience > mark["patience"]
