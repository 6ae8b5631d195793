"""What a search writes down of its trials: whose runs it closes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.search.callback import SearchLog
from pipelines.tracking import runs
from pipelines.tracking.spool import RunSpool
from seqgen.data.manifest import read_manifest
from tests.finished_run import work_in
from tests.sets import write_digits
from tests.tiny_search import tiny


def test_trials_that_another_machine_goes_on_with_are_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work_in(tmp_path, monkeypatch)
    write_digits(tmp_path / "shards")
    recipe, manifest = tiny({"model.steps": [1, 2]}), read_manifest(tmp_path / "shards")
    study = runs.open_run(recipe, manifest, kind="study")
    trial = SimpleNamespace(trial_id="1", config={"model.steps": 1}, last_result={})
    for ours, status in ((False, "RUNNING"), (True, "KILLED")):
        log = SearchLog(recipe, manifest, study)
        log.on_trial_start(0, [trial], trial)  # type: ignore[list-item,arg-type]
        log.stop.set()
        log.close_trials([trial], ours)  # type: ignore[list-item]
        (run_id,) = runs.children(study, "seqgen.trial").values()
        assert runs.connect().get_run(run_id).info.status == status
        assert not RunSpool.of(run_id).is_ours()
        assert (trial.trial_id in log.ended) is ours
