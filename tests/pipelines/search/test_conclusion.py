"""The end of a search: which trial wins, what is written and shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.artifacts.search_result import TrialRow
from pipelines.search.conclusion import conclude
from seqgen.core.errors import OperationalError
from tests.tiny_search import tiny


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the recipe's search is written."""
    monkeypatch.setenv("SEQGEN_ARTIFACTS", str(tmp_path))
    return tmp_path / "tiny/search"


def row(steps: int, bound: float | None, status: str) -> TrialRow:
    settings = {"model.steps": steps, "model.attention": "full"}
    done = {"epochs": 1, "bound": bound, "seconds": 1.5, "status": status, "checkpoint": f"at {steps}"}
    return {"trial": steps, **settings, **done}


def test_the_best_trial_that_did_not_fail_wins(target: Path, capsys: pytest.CaptureFixture[str]):
    space = {"model.steps": [1, 2, 3, 4, 5], "model.attention": ["full"]}
    trials = [
        row(4, None, "out of time"),
        row(1, 90.0, "asha"),
        row(2, 80.5, "finished"),
        row(3, 70.0, "failed"),
    ]
    best = conclude(tiny(space, trials=5, minutes=2.0), trials)
    assert best["settings"] == {"model.steps": 2, "model.attention": "full"}
    assert (best["objective"], best["trials"], best["failed"]) == (80.5, 4, 1)
    assert best["checkpoint"] == "at 2"
    assert best["metric"] == "valid/dynamic/free_energy"
    assert json.loads((target / "best.json").read_text()) == best
    assert (target / "trials.csv").read_text().splitlines() == [
        "trial,model.steps,model.attention,epochs,bound,seconds,status",
        "1,1,full,1,90.0,1.5,asha",
        "2,2,full,1,80.5,1.5,finished",
        "3,3,full,1,70.0,1.5,failed",
        "4,4,full,1,,1.5,out of time",
    ]
    shown = capsys.readouterr().out
    assert "the time was up before 1 more trials: search.minutes=2\n" in shown
    assert "best: model.steps=2 model.attention=full, bound 80.50 nats" in shown


@pytest.mark.parametrize(
    ("trials", "reason"),
    [
        ([row(1, None, "failed"), row(2, 70.0, "failed")], "2 of 2 failed"),
        ([row(1, None, "out of time")], "time was up before the first epoch"),
    ],
)
def test_a_search_without_a_bound_fails_and_writes_nothing(target: Path, trials: list[TrialRow], reason: str):
    with pytest.raises(OperationalError, match=reason):
        conclude(tiny(), trials)
    assert not target.exists()
