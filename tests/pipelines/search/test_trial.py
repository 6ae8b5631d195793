"""A trial gone on with from its checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from ray.tune import Checkpoint

from pipelines.search import trial
from seqgen.training import ProcessGroup
from tests.sets import write_digits
from tests.tiny_search import tiny


def test_a_restored_trial_goes_on_from_its_checkpoint_and_a_done_one_only_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_digits(tmp_path / "shards")
    tree = tiny().given()
    monkeypatch.setattr(trial, "CHECKPOINT_SECONDS", 0.0)

    def train(checkpoint: Checkpoint | None, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []

        def report(row: dict[str, Any], directory: Path | None) -> None:
            rows.append({key: row[key] for key in ("epoch", "step", "valid/dynamic/free_energy")})
            if directory:
                shutil.copytree(directory, tmp_path / name / str(row["epoch"]))

        trial.train_trial(
            {"model.steps": 2}, tree, str(tmp_path / "shards"), ProcessGroup(), checkpoint, report
        )
        return rows

    whole = train(None, "whole")
    assert [(row["epoch"], row["step"]) for row in whole] == [(1, 3), (2, 6), (3, 9)]
    assert train(Checkpoint.from_directory(str(tmp_path / "whole/2")), "rest") == whole[2:]
    assert train(Checkpoint.from_directory(str(tmp_path / "whole/3")), "none") == whole[2:]
    assert not (tmp_path / "none").exists()

    monkeypatch.setattr(trial, "CHECKPOINT_SECONDS", 3600.0)
    assert train(None, "rare") == whole
    assert [path.name for path in (tmp_path / "rare").iterdir()] == ["3"], "the last one always"
