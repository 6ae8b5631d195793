"""Shards, checked against the recipe before a training is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.artifacts.places import places
from pipelines.artifacts.shards import checked_manifest
from pipelines.recipes import load_recipe
from seqgen.core.errors import BadInput, OperationalError
from seqgen.data.manifest import read_manifest
from seqgen.settings import Recipe
from tests.finished_run import tiny_recipe
from tests.sets import write_digits, write_strokes


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe, with nothing of it made yet."""
    monkeypatch.setenv("SEQGEN_ARTIFACTS", str(tmp_path / "artifacts"))
    return load_recipe(str(tiny_recipe(tmp_path)))


def test_the_recipe_s_own_shards_are_taken(recipe: Recipe):
    write_digits(places(recipe).shards)
    assert checked_manifest(recipe) == read_manifest(places(recipe).shards)


def test_shards_of_other_settings_are_refused(recipe: Recipe):
    write_strokes(places(recipe).shards)
    with pytest.raises(BadInput, match=r"shards of other data settings; run `python -m pipelines\.shard"):
        checked_manifest(recipe)


def test_absent_and_damaged_shards_are_refused(recipe: Recipe):
    shards = places(recipe).shards
    write_digits(shards)
    (shards / "valid-000000.tar").write_bytes(b"")
    with pytest.raises(OperationalError, match=r"valid-000000\.tar: damaged"):
        checked_manifest(recipe)
    (shards / "manifest.json").unlink()
    with pytest.raises(BadInput, match="no manifest"):
        checked_manifest(recipe)
