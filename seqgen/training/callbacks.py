"""Who goes along with a training: asked between two steps, told of epochs, of what was left out, when to save."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from seqgen.training.checkpoint import Position

if TYPE_CHECKING:
    from seqgen.evaluation.bounds import HeldOut
    from seqgen.models import SequentialModel

SaveFn = Callable[[Path], None]


class Wish(IntEnum):
    """What a callback wants; of several, and of several ranks', the largest is granted, on all of them."""

    GO_ON = 0
    SAVE = 1
    STOP = 2  # save and stop


@dataclass(frozen=True)
class Skipped:
    """A step that was not taken because its gradient was not finite: all that is needed to look at it again."""

    epoch: int
    step: int
    seed: int
    samples: list[str]


@dataclass(frozen=True)
class Progress:
    """A run after an epoch: completed epochs and optimiser steps, and the metrics (nats per image).

    `last` says that none follows. `model` has the averaged weights of this moment, and `held_out` is what they were
    measured on (None: nothing); neither is to be changed.
    """

    epoch: int
    step: int
    metrics: dict[str, float]
    last: bool
    model: SequentialModel
    held_out: HeldOut | None


class Callback:
    """One that wants nothing. Every method is called on every rank, in the same order; see to one concern in each.

    `save(directory)` writes a complete checkpoint, whenever it is given; one rank is enough.
    """

    def wish(self) -> Wish:
        """Called between two steps and two chunks of an evaluation (on a GPU every 5 s or 100 steps): make it free."""
        return Wish.GO_ON

    def save(self, position: Position, save: SaveFn) -> None:
        """A save was wished, of this callback or another."""

    def step(self, metrics: Mapping[str, Tensor]) -> None:
        """Called after every step with its metrics, of this rank's images, on its device: it must cost nothing."""

    def skipped(self, step: Skipped) -> None:
        """A step was not taken."""

    def epoch(self, progress: Progress, save: SaveFn) -> bool | None:
        """An epoch is complete; True, from any rank, ends the training with it."""

    def end(self) -> None:
        """The training is over, however it ended: the last call."""


class Callbacks(Callback):
    """Several as one, called in their order."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._all = callbacks

    def wish(self) -> Wish:
        return max((callback.wish() for callback in self._all), default=Wish.GO_ON)

    def save(self, position: Position, save: SaveFn) -> None:
        for callback in self._all:
            callback.save(position, save)

    def step(self, metrics: Mapping[str, Tensor]) -> None:
        for callback in self._all:
            callback.step(metrics)

    def skipped(self, step: Skipped) -> None:
        for callback in self._all:
            callback.skipped(step)

    def epoch(self, progress: Progress, save: SaveFn) -> bool:
        ended = [callback.epoch(progress, save) for callback in self._all]  # every one of them, first
        return any(ended)

    def end(self) -> None:
        with contextlib.ExitStack() as each:  # also if another's raises
            for callback in reversed(self._all):
                each.callback(callback.end)


class EachEpoch(Callback):
    """A function as a callback: `function(progress, save)` after each epoch."""

    def __init__(self, function: Callable[[Progress, SaveFn], bool | None]) -> None:
        self._function = function

    def epoch(self, progress: Progress, save: SaveFn) -> bool | None:
        return self._function(progress, save)
