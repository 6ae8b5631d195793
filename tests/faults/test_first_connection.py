"""Several processes that are the first to track in a directory: mlflow.db is made once, and whole."""

from __future__ import annotations

import sqlite3
import subprocess
from pathlib import Path

import pytest

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
