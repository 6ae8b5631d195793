"""A profile of a few steps of a training."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seqgen.core.errors import NumericalError, StoppedEarly
from seqgen.models import build
from seqgen.settings import TrainConfig
from seqgen.training import Callback, EachEpoch, Wish, fit
from seqgen.training.profile import Profile
from tests.training.child import DATA, MODEL, TRAIN, digits, spoil

CPU = torch.device("cpu")


def test_a_profile_names_the_operations_of_ten_steps_once_and_changes_nothing():
    seen: list[tuple[str, list[str]]] = []

    def done(table: str, trace: Path | None) -> None:
        assert trace is not None
        with gzip.open(trace, "rt") as stream:
            seen.append((table, [event.get("name", "") for event in json.load(stream)["traceEvents"]]))

    weights = []
    for callbacks in ([], [Profile(done, CPU)]):
        torch.manual_seed(0)
        trained = fit(build(MODEL, 28, 28), digits(60), None, DATA, TRAIN, callbacks=callbacks)
        weights.append(torch.cat([part.flatten() for part in trained.parameters()]))
    assert weights[0].equal(weights[1])
    ((table, names),) = seen
    assert "aten::" in table
    assert table.startswith("where the time of 10 steps goes")
    steps = [name for name in names if name.startswith("Optimizer.step")]
    assert len(steps) == 10


def test_it_ends_where_an_evaluation_begins_and_says_of_how_many_steps_it_is():
    said: list[tuple[str, bool]] = []
    profile = Profile(lambda table, trace: said.append((table.partition("\n")[0], trace is not None)), CPU)
    # Five steps an epoch: the tenth is the last of the second, and the profile begins after the first of the third.
    fit(build(MODEL, 28, 28), digits(60), digits(30), DATA, TRAIN, callbacks=[profile])
    assert said == [("where the time of 4 steps goes:", True)]


def test_a_training_that_is_too_short_for_one_says_so():
    said: list[tuple[str, Path | None]] = []
    profile = Profile(lambda *what: said.append(what), CPU)
    short = TRAIN.model_copy(update={"epochs": 2})
    fit(build(MODEL, 28, 28), digits(60), digits(30), DATA, short, callbacks=[profile])
    assert said == [("no profile: the first 10 steps are left out, and no other was taken", None)]


class StopAt(Callback):
    """Wishes to stop after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, metrics: object) -> None:
        self.left -= 1

    def wish(self) -> Wish:
        return Wish.GO_ON if self.left else Wish.STOP


def stopped(profile: Profile) -> None:
    with pytest.raises(StoppedEarly):
        fit(build(MODEL, 28, 28), digits(60), None, DATA, TRAIN, callbacks=[profile, StopAt(13)])


def failed(profile: Profile) -> None:
    model = build(MODEL, 28, 28)
    spoil(model, [12, 13])
    with pytest.raises(NumericalError):
        fit(model, digits(60), None, DATA, settings(max_skipped=0), callbacks=[profile])


def interrupted(profile: Profile) -> None:
    class Interrupt(StopAt):
        def wish(self) -> Wish:
            if self.left == 0:
                raise KeyboardInterrupt
            return Wish.GO_ON

    with pytest.raises(KeyboardInterrupt):
        fit(build(MODEL, 28, 28), digits(60), None, DATA, TRAIN, callbacks=[profile, Interrupt(13)])


def ended_by_another(profile: Profile) -> None:
    enough = EachEpoch(lambda progress, save: progress.step == 15)
    fit(build(MODEL, 28, 28), digits(60), None, DATA, TRAIN, callbacks=[profile, enough])


def complete(profile: Profile) -> None:
    fit(build(MODEL, 28, 28), digits(60), None, DATA, settings(epochs=3), callbacks=[profile])


def settings(**changes: object) -> TrainConfig:
    return TRAIN.model_copy(update=changes)


@pytest.mark.parametrize(
    ("training", "steps"), [(stopped, 3), (failed, 3), (interrupted, 3), (ended_by_another, 5), (complete, 5)]
)
def test_it_ends_with_the_training_whatever_ends_it(training: Callable[[Profile], None], steps: int):
    said: list[str] = []
    training(Profile(lambda table, trace: said.append(table.partition("\n")[0]), CPU))
    assert said == [f"where the time of {steps} steps goes:"]
    assert not torch.autograd.profiler._is_profiler_enabled  # type: ignore[attr-defined]
    # The next one in this process has nothing to do with it.
    fit(build(MODEL, 28, 28), digits(60), None, DATA, settings(epochs=6))
    assert len(said) == 1


def test_every_callback_is_told_of_the_end_also_if_another_fails_at_it():
    told: list[str] = []

    class Ending(Callback):
        def __init__(self, name: str, error: Exception | None = None) -> None:
            self.name, self.error = name, error

        def end(self) -> None:
            told.append(self.name)
            if self.error:
                raise self.error

    with pytest.raises(OSError, match="first"):
        fit(
            build(MODEL, 28, 28),
            digits(24),
            None,
            DATA,
            settings(epochs=1),
            callbacks=[Ending("first", OSError("first")), Ending("second")],
        )
    assert told == ["first", "second"]
