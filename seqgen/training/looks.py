"""When a training looks up from its steps: for gradients that are not finite, and at what its callbacks wish."""

from __future__ import annotations

import time

import torch

from seqgen.training.process_group import ProcessGroup

_STEPS, _SECONDS = 100, 5.0  # the most steps, and about the most seconds, from one look to the next


def at_every_step(device: torch.device) -> bool:
    """Whether a look costs nothing. On a GPU the host waits in it for all that the device has to do yet."""
    return device.type == "cpu"


def steps_between(seconds: float) -> int:
    """How many steps, of so many seconds each, from one look to the next: at least one."""
    return max(1, min(_STEPS, int(_SECONDS / max(seconds, 1e-9))))


class Looks:
    """The steps at which all ranks look: the same ones on each, as they agree in it.

    The first is one. How far it is to the next follows from the time of those before, on the slowest rank.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self._group, self._every = group, at_every_step(group.device)
        self._between = 1
        self.begin(0)

    def begin(self, step: int) -> None:
        """Steps begin with this one, after something else."""
        self._first, self._began = step, time.monotonic()

    def at(self, step: int) -> bool:
        """Whether to look at this step."""
        return self._every or step - self._first + 1 >= self._between

    def done(self, step: int) -> None:
        """This step was looked at. Called on all ranks."""
        if not self._every:
            seconds = (time.monotonic() - self._began) / (step - self._first + 1)
            self._between = -self._group.most(-steps_between(seconds))  # the fewest of all ranks
        self.begin(step + 1)
