"""Who is the first at the tracking server, at once: the file is made once, and a data set is noted once."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.tracking import runs
from seqgen.data.manifest import Manifest
from seqgen.settings import Recipe
from tests.registries import another, go

CONNECT = """
import mlflow.store.tracking.sqlalchemy_store
from pipelines.tracking import runs
print("there", flush=True)
input()
client = runs.connect()
print(runs.experiment_id(client), client.get_experiment("0").artifact_location)
"""


def heard(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=500)
    assert process.returncode == 0
    return said


@pytest.mark.slow
def test_processes_that_track_at_once_in_an_empty_directory(tmp_path: Path) -> None:
    """All succeed, and nothing but the file is left: neither what a killed process left, nor a lock."""
    (tmp_path / ".mlflow.db.making").mkdir()
    (tmp_path / ".mlflow.db.making/mlflow.db").write_text("half a file")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    processes = [another(CONNECT, uri, tmp_path) for _ in range(3)]
    for process in processes:
        go(process)
    assert {heard(process) for process in processes} == {f"1 file://{tmp_path}/mlartifacts/0\n"}
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        assert str(tmp_path / ".mlflow.db") not in "\n".join(connection.iterdump())


def test_runs_that_are_the_first_of_a_data_set(here: Path, recipe: Recipe, manifest: Manifest) -> None:
    """Each has the set among its inputs, whoever of them is at the server first."""
    runs.experiment_id(runs.connect())
    for round_ in range(4):
        anew = manifest.model_copy(update={"title": f"set {round_}"})
        together = threading.Barrier(4)

        def opened(_: int, anew: Manifest = anew, together: threading.Barrier = together) -> str:
            together.wait()
            return runs.open_run(recipe, anew)

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(opened, range(4)))
        for run_id in found:
            (given,) = runs.connect().get_run(run_id).inputs.dataset_inputs
            assert given.dataset.name == anew.title
            assert runs.close_run(run_id, "FINISHED")
