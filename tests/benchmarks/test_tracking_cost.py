"""The tracking benchmark: its arithmetic, and that what it times is really logged to a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import tracking
from pipelines.tracking import runs
from tests.finished_run import work_in


def test_a_ratio_is_taken_round_by_round():
    found = tracking.summary({tracking.NONE: [1.0, 2.0, 4.0], "slow": [1.5, 2.2, 4.4]})
    assert found[tracking.NONE] == {"seconds": 2.0, "ratio": 1.0}
    assert found["slow"] == pytest.approx({"seconds": 2.2, "ratio": 1.1})


def test_every_step_of_a_turn_is_logged_and_the_first_round_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    work_in(tmp_path, monkeypatch)
    steps: list[int] = []
    uri = runs.tracking_uri()
    logs = {tracking.NONE: tracking.silence, "logged": tracking.logging_to(uri, uri)}
    seconds = tracking.step_seconds(lambda: steps.append(1), logs, steps=3, rounds=2)
    assert {name: len(values) for name, values in seconds.items()} == {tracking.NONE: 2, "logged": 2}
    assert len(steps) == 3 * 2 * 3
    client = runs.connect()
    found = client.search_runs([runs.experiment_id(client)])
    assert len(found) == 3
    for run in found:
        assert len(run.data.metrics) == tracking.METRICS
        assert [point.step for point in client.get_metric_history(run.info.run_id, "train/0")] == [0, 1, 2]
