"""Shards, checked against the recipe before a training is started."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.fetch import fetch
from data_prep.shard_set import shard_set
from pipelines.artifacts.places import places
from pipelines.artifacts.shards import checked_manifest
from pipelines.recipes import load_recipe
from seqgen.core.errors import BadInput, OperationalError
from seqgen.data.manifest import read_manifest
from seqgen.settings import Recipe
from seqgen.training.memory import bytes_needed
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
    with pytest.raises(BadInput, match=r"shards of other data settings; run `seqgen shard"):
        checked_manifest(recipe)


def test_pairs_of_an_alphabet_want_a_folder_of_alphabets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEQGEN_ARTIFACTS", str(tmp_path / "artifacts"))
    random = np.random.default_rng(0)

    def problem(*concepts: str) -> str:
        """What is wrong with a folder of these concepts, of two drawings each; "" if nothing."""
        folder = tmp_path / f"of-{len(concepts)}-{concepts[0].replace('/', '-')}"
        for concept in concepts:
            (folder / concept).mkdir(parents=True)
            for number in range(2):
                Image.fromarray(random.integers(0, 256, (8, 8), np.uint8)).save(
                    folder / concept / f"{number}.png"
                )
        data = f"data={{source: folder, path: '{folder}', size: 8, split: concepts, binarise: dynamic}}"
        small = ["model.copy_grid=null", "model.read_size=4", "model.write_size=4", "train.batch=2"]
        recipe = load_recipe("quickstart-characters", [data, *small, "train.pairs=alphabet"])
        fetch(["folder"], places(recipe).raw, folder=recipe.data.path, notice=lambda line: None)
        shard_set(recipe.data, places(recipe).raw, places(recipe).shards, processes=1)
        try:
            checked_manifest(recipe)
        except BadInput as error:
            return str(error)
        return ""

    assert problem(*(f"Greek/c{number}" for number in range(8))) == ""
    assert "has no alphabets; use character" in problem(*(f"c{number}" for number in range(8)))
    alone = problem(*(f"A{number}/c" for number in range(8)))
    assert "one concept in train of " in alone
    assert alone.count("A") == 4  # all that are in train


def test_a_model_too_large_for_the_size_that_was_detected_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SEQGEN_ARTIFACTS", str(tmp_path / "artifacts"))
    folder = tmp_path / "mine"
    random = np.random.default_rng(0)
    for concept in range(6):
        (folder / f"c{concept}").mkdir(parents=True)
        for number in range(2):
            pixels = random.integers(0, 256, (10, 7), np.uint8)
            Image.fromarray(pixels).save(folder / f"c{concept}/{number}.png")
    data = f"data={{source: folder, path: '{folder}', size: auto, split: concepts, binarise: dynamic}}"
    asked = [data, "model.copy_grid=null", "train.batch=2"]
    recipe = load_recipe("quickstart-characters", [*asked, "model.read_size=13"])
    assert bytes_needed(recipe) == bytes_needed(recipe, 64) > bytes_needed(recipe, 12)
    place = places(recipe)
    fetch(["folder"], place.raw, folder=recipe.data.path, notice=lambda line: None)
    assert shard_set(recipe.data, place.raw, place.shards, processes=1).height == 12
    with pytest.raises(
        BadInput, match=r"model\.read_size=13 exceeds data\.size=12 \(detected\); choose data\.size"
    ):
        checked_manifest(recipe)
    assert checked_manifest(load_recipe("quickstart-characters", [*asked, "model.read_size=12"])).height == 12


def test_absent_and_damaged_shards_are_refused(recipe: Recipe):
    shards = places(recipe).shards
    write_digits(shards)
    (shards / "valid-000000.tar").write_bytes(b"")
    with pytest.raises(OperationalError, match=r"valid-000000\.tar: damaged"):
        checked_manifest(recipe)
    (shards / "manifest.json").unlink()
    with pytest.raises(BadInput, match="no manifest"):
        checked_manifest(recipe)
