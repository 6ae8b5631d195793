"""Who watches a training from outside: asked between two steps, told of what was saved and of what was left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from seqgen.training.checkpoint import Position

SaveFn = Callable[[Path], None]


class Wish(IntEnum):
    """What a watch wants; of several ranks' wishes the largest is granted, on all of them."""

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


class Watch:
    """One that wants nothing. Every method is called on every rank."""

    def wish(self) -> Wish:
        """Called between two steps (on a GPU: every hundred) and two chunks of an evaluation: it must cost nothing."""
        return Wish.GO_ON

    def save(self, position: Position, save: SaveFn) -> None:
        """A save was wished: `save(directory)` writes a complete checkpoint (one rank is enough)."""

    def skipped(self, step: Skipped) -> None:
        """A step was not taken."""
