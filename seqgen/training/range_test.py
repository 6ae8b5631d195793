"""The range test of the learning rate (Smith 2017, "Cyclical learning rates", sec. 3.3): a training whose rate grows.

test = RangeTest(200)
with contextlib.suppress(StoppedEarly):
    training.run(recipe, shards, schedule=test.rate, callbacks=[test])
print(test.curve.suggestion)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from seqgen.settings import TrainConfig
from seqgen.training.callbacks import Callback, Skipped, Wish

LOWEST, HIGHEST = 1e-6, 1.0
_DECADES = math.log10(HIGHEST / LOWEST)
_SURE = 3.0  # times the noise, by which the loss must fall


@dataclass
class Curve:
    """The loss of each step in nats per image, and smoothed: its bias-corrected exponential mean over steps / 20 steps.

    `steps` are those of a test that goes to its end, at least 2.
    """

    steps: int
    losses: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)
    ended: Literal["", "complete", "diverged", "not finite"] = ""

    def rate(self, step: int) -> float:
        """That of a step, from 0; those after the last have the last one's."""
        return LOWEST * (HIGHEST / LOWEST) ** (min(step, self.steps - 1) / (self.steps - 1))

    @property
    def rates(self) -> list[float]:
        """Those of `losses`."""
        return [self.rate(step) for step in range(len(self.losses))]

    @property
    def memory(self) -> int:
        """Over how many steps the loss is smoothed: the weight of the newest is one in so many."""
        return max(2, round(self.steps / 20))

    def add(self, loss: float) -> None:
        """The loss of the next step; nothing after the end.

        It has diverged where, smoothed, it is above its best by more than the size of the best or, if that is larger,
        of the first.
        """
        if self.ended:
            return
        if not math.isfinite(loss):
            self.ended = "not finite"
            return
        self.losses.append(loss)
        newest = 1 / self.memory
        weight = newest / (1 - (1 - newest) ** len(self.losses))
        before = self.smoothed[-1] if self.smoothed else 0.0
        self.smoothed.append(before + weight * (loss - before))
        best = min(self.smoothed)
        if self.smoothed[-1] - best > max(abs(best), abs(self.smoothed[0])):
            self.ended = "diverged"
        elif len(self.losses) == self.steps:
            self.ended = "complete"

    @property
    def noise(self) -> float:
        """The standard deviation of a step's loss about the smoothed one, nats per image, up to its lowest."""
        until = self.smoothed.index(min(self.smoothed)) + 1
        pairs = zip(self.losses[:until], self.smoothed[:until], strict=True)
        return statistics.pstdev([loss - mean for loss, mean in pairs])

    @property
    def suggestion(self) -> float | None:
        """The rate in the middle of the half decade over which the smoothed loss falls most, before its lowest.

        None where it falls by less than three times `noise` in all.
        """
        lowest = self.smoothed.index(min(self.smoothed))
        half = max(1, round((self.steps - 1) / _DECADES / 4))
        # The mean of the first few steps is not yet smooth.
        middles = range(self.memory + half, lowest - half + 1)
        if not middles or self.smoothed[self.memory] - self.smoothed[lowest] < _SURE * self.noise:
            return None
        return self.rate(
            max(middles, key=lambda step: self.smoothed[step - half] - self.smoothed[step + half])
        )


class RangeTest(Callback):
    """Lets the rate grow geometrically from 1e-6 to 1 and keeps the loss; stops the training at the curve's end."""

    def __init__(self, steps: int) -> None:
        self.curve = Curve(steps)
        self._unseen: list[Tensor] = []

    def rate(self, step: int, total: int, config: TrainConfig) -> float:
        """The schedule for `fit` and `run`."""
        return self.curve.rate(step)

    def step(self, metrics: Mapping[str, Tensor]) -> None:
        self._unseen.append(metrics["free_energy"])

    def skipped(self, step: Skipped) -> None:
        self._look()
        self.curve.ended = self.curve.ended or "not finite"

    def wish(self) -> Wish:
        self._look()
        return Wish.STOP if self.curve.ended else Wish.GO_ON

    def _look(self) -> None:
        for loss in self._unseen:
            self.curve.add(float(loss))
        self._unseen = []
