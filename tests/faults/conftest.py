"""What the chapters share: a training that nothing disturbed, a place for one that something will, a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.recipes import load_recipe
from seqgen.settings import Recipe
from tests.finished_run import tiny_recipe
from tests.train_runs import EPOCHS, assert_complete, prepare_unhurried, train, weights


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the weights of a run that nothing disturbed."""
    place = prepare_unhurried(tmp_path_factory.mktemp("undisturbed"))
    done = train(place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"epoch {EPOCHS}/{EPOCHS}" in done.stdout
    assert_complete(place)
    return weights(place)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working directory with a recipe and its shards."""
    return prepare_unhurried(tmp_path)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe of digits in an empty working directory, with nothing of it made yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEQGEN_ARTIFACTS", raising=False)
    return load_recipe(str(tiny_recipe(tmp_path)))
