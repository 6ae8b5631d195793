"""Training processes: killed, stopped, hanging, raising, out of memory; gradients that are not finite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.training.test_processes import STEPS, newest, train, weights


@pytest.mark.slow
def test_10_nan_on_one_rank_skips_the_step_on_all(tmp_path: Path):
    spoiled = train(tmp_path / "spoiled", size=2, spoil={1: [7]})
    assert all(weights(spoiled, 0)[name].equal(value) for name, value in weights(spoiled, 1).items())
    assert all(bool(value.isfinite().all()) for value in weights(spoiled).values())
    rows = json.loads((spoiled / "metrics-0.json").read_text())
    assert [row["skipped_steps"] for row in rows] == [0, 1, 0, 0, 0]
    assert all(torch.tensor(list(row.values())).isfinite().all() for row in rows)
    for rank in (0, 1):
        ((epoch, step, seed, samples),) = json.loads((spoiled / f"skipped-{rank}.json").read_text())
        assert (epoch, step, seed) == (2, 7, 7)
        assert len(set(samples)) == 12  # of the whole global batch


@pytest.mark.slow
def test_10_too_many_of_them_end_with_code_3_and_the_samples(tmp_path: Path):
    spoil = {0: [5, 6, 7], 1: [8]}
    spoiled = train(tmp_path / "spoiled", size=2, code=3, spoil=spoil, settings={"max_skipped": 3})
    lost = json.loads((spoiled / "skipped-1.json").read_text())
    assert [step for _, step, _, _ in lost] == [5, 6, 7, 8]
    assert int(newest(spoiled).name.removeprefix("step-")) == STEPS
