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


def test_a_profile_names_the_operations_of_ten_steps_once_and_changes_nothing():
    seen: list[tuple[str, list[str]]] = []

    def done(table: str, trace: Path) -> None:
        with gzip.open(trace, "rt") as stream:
            seen.append((table, [event.get("name", "") for event in json.load(stream)["traceEvents"]]))

    weights = []
    for callbacks in ([], [Profile(done, torch.device("cpu"))]):
        torch.manual_seed(0)
        trained = fit(build(MODEL, 28, 28), digits(60), None, DATA, TRAIN, callbacks=callbacks)
        weights.append(torch.cat([part.flatten() for part in trained.parameters()]))
    assert weights[0].equal(weights[1])
    ((table, names),) = seen
    assert "aten::" in table
    steps = [name for name in names if name.startswith("Optimizer.step")]
    assert len(steps) == 10
