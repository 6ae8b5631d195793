"""A project whose folder is copied or moved, with a run and a registered model: each keeps to its own artifacts."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.register import register_trained
from pipelines.tracking import runs
from seqgen.core.errors import BadInput
from tests.finished_run import finished_run, outside, tiny_recipe, work_in

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a champion, to be copied by each test."""
    place = tmp_path_factory.mktemp("made") / "project one"  # a space, which an address writes as %20
    place.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        work_in(place, patch)
        assert register_trained(finished_run(tiny_recipe(place)))["promoted"]
    return place


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def addresses(database: Path) -> str:
    """All text in the database."""
    with sqlite3.connect(database) as connection:
        return "\n".join(connection.iterdump())


def load_champion(place: Path) -> subprocess.CompletedProcess[str]:
    """As a user would, in a process of its own."""
    script = "import seqgen; print(seqgen.load('models:/tiny@champion').sample(1).shape)"
    return subprocess.run(
        [sys.executable, "-c", script], cwd=place, env=outside(), capture_output=True, text=True
    )


def trace(place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.trace", "models:/tiny@champion"],
        cwd=place,
        env=outside(),
        capture_output=True,
        text=True,
    )


def test_a_copy_writes_beside_itself_and_leaves_the_original_alone(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    before = contents(made)
    work_in_copy(copy, monkeypatch)
    client = runs.connect()
    assert f"{copy}/mlflow.db was moved or copied from {made}" in capfd.readouterr().err
    (version,) = client.search_model_versions("name='tiny'")
    assert runs.attach(version.run_id, copy / "tiny.yaml", "later")
    assert (copy / "mlartifacts" / version.run_id / "artifacts" / "later" / "tiny.yaml").is_file()
    # A new run and a new version, too.
    assert register_trained(finished_run(tiny_recipe(copy), seed=1))["version"] == "2"
    assert "moved" not in capfd.readouterr().err  # once is enough
    assert contents(made) == before
    assert made.as_uri() not in addresses(copy / "mlflow.db")
    assert load_champion(copy).returncode == 0


def test_a_moved_project_keeps_its_models(made: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(made, first)
    assert trace(first).returncode == 0
    moved = first.rename(tmp_path / "second")
    found = trace(moved)
    assert found.returncode == 0, found.stderr
    assert "model tiny version 1" in found.stdout
    loaded = load_champion(moved)
    assert loaded.returncode == 0, loaded.stderr
    assert first.as_uri() not in addresses(moved / "mlflow.db")


def test_a_database_without_its_artifacts_is_refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(made / "mlflow.db", tmp_path / "mlflow.db")
    before = (tmp_path / "mlflow.db").read_bytes()
    work_in_copy(tmp_path, monkeypatch)
    with pytest.raises(BadInput, match=r"cp -a .*mlartifacts"):
        runs.connect()
    assert (tmp_path / "mlflow.db").read_bytes() == before


def work_in_copy(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "SEQGEN_ARTIFACTS", "SEQGEN_STORAGE", "SEQGEN_STATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(directory)
