"""How many steps a training on a GPU takes between two looks."""

from __future__ import annotations

import pytest

from seqgen.training import ProcessGroup, looks
from seqgen.training.looks import Looks, steps_between


@pytest.mark.parametrize(
    ("seconds", "steps"), [(0.0, 100), (0.001, 100), (0.05, 100), (0.1, 50), (0.6, 8), (4.9, 1), (700.0, 1)]
)
def test_a_look_follows_after_a_hundred_steps_or_five_seconds(seconds: float, steps: int):
    assert steps_between(seconds) == steps


def looked_at(steps: int, first: int = 0) -> list[int]:
    found, looking = [], Looks(ProcessGroup())
    for begin in (first, first + steps):
        looking.begin(begin)
        for step in range(begin, begin + steps):
            if looking.at(step):
                looking.done(step)
                found.append(step)
    return found


def test_on_a_cpu_every_step_is_looked_at():
    assert looked_at(3) == [0, 1, 2, 3, 4, 5]


def test_elsewhere_the_first_and_then_as_many_as_fit_the_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(looks, "at_every_step", lambda device: False)
    monkeypatch.setattr(looks, "steps_between", lambda seconds: 3)
    assert looked_at(8, first=2) == [2, 5, 8, 12, 15], "anew in every epoch"
