"""A profile of a few steps of a training."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import torch

from seqgen.models import build
from seqgen.training import fit
from seqgen.training.profile import Profile
from tests.training.child import DATA, MODEL, TRAIN, digits

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
