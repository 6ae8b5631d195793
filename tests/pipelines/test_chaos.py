"""`seqgen chaos`: real trainings with killed processes, and what it says of two that differ."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipelines.artifacts.history import FILE_NAME, write_history
from pipelines.chaos import chaos
from pipelines.chaos.compared import compare
from pipelines.cli.command import run
from tests.finished_run import outside, tiny_recipe
from tests.sets import write_digits


def trained(directory: Path, weight: float = 1.0, bound: float = 90.0, seconds: float = 1.0) -> Path:
    (directory / "model").mkdir(parents=True)
    save_file({"w": np.array([weight], np.float32)}, directory / "model/weights.safetensors")
    rows = [{"epoch": epoch, "step": 4 * epoch, "valid/bound": 100.0, "seconds": seconds} for epoch in (1, 2)]
    write_history(directory / FILE_NAME, [*rows[:1], {**rows[1], "valid/bound": bound}])
    return directory


def test_two_trainings_are_compared_but_for_their_times(tmp_path: Path):
    one = trained(tmp_path / "one")
    assert compare(one, trained(tmp_path / "slower", seconds=9.0)) == []
    (problem,) = compare(one, trained(tmp_path / "history", bound=90.5))
    assert problem == "history, from row 2 on (2 and 2 rows)"
    (problem,) = compare(one, trained(tmp_path / "weights", weight=1.0 + 2**-23))
    assert problem.startswith("weights ")


def test_victims_that_there_are_not_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        run(chaos, ["--recipe", str(tiny_recipe(tmp_path)), "--what", "worker,node"])
    assert ended.value.code == 2
    assert "--what worker,node: 'node' is none of worker, all, driver" in capsys.readouterr().err


@pytest.mark.slow
def test_a_training_whose_worker_and_driver_are_killed_ends_with_the_same_bits(tmp_path: Path):
    write_digits(tmp_path / "artifacts/tiny/shards")
    recipe = tiny_recipe(tmp_path, epochs=100)
    began = time.time()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pipelines.chaos", "--recipe", str(recipe), "--workers", "1"),
            *("--every", "0.5", "--kills", "2", "--seed", "1", "--what", "worker,driver"),
        ],
        cwd=tmp_path, env=outside(), text=True, timeout=1100, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "the same bits as undisturbed" in done.stdout
    report = json.loads((tmp_path / "artifacts/chaos/tiny/report.json").read_text())
    assert [kill["what"] for kill in report["kills"]] == ["worker", "driver"], report
    assert all(kill["time"] > began for kill in report["kills"])
    assert report["starts"] == 2
    assert report["differences"] == []
    # Nothing of it is in the recipe's own places.
    assert {path.name for path in (tmp_path / "artifacts/tiny").iterdir()} == {"shards"}
    assert not (tmp_path / "mlflow.db").exists()
    assert list((tmp_path / ".seqgen/ray").iterdir()) == []
