"""A training that starts from the champion's weights: which ones, when none, and that it does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from pipelines import train
from pipelines.artifacts.places import places
from pipelines.recipes import load_recipe
from pipelines.register import register_trained
from pipelines.registry.warm_start import starting_weights
from seqgen import training
from seqgen.core.errors import OperationalError
from seqgen.data.manifest import read_manifest
from seqgen.models import load_model
from seqgen.settings import Recipe
from tests.finished_run import finished_run, tiny_recipe, work_in


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    work_in(tmp_path, monkeypatch)
    return tmp_path


def changed(path: Path, section: str, **settings: object) -> Recipe:
    tree = yaml.safe_load(path.read_text())
    tree[section] |= settings
    path.write_text(yaml.safe_dump(tree))
    return load_recipe(str(path))


def test_it_starts_from_the_champion_of_the_same_model(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_recipe(here, workers=1)
    trained = finished_run(path, seed=1)
    manifest = trained.manifest()
    recipe = changed(path, "train", initial="champion")
    assert starting_weights(recipe, manifest) is None
    assert "tiny has none yet; starts at random" in capsys.readouterr().out
    register_trained(trained)
    assert starting_weights(load_recipe(str(tiny_recipe(here, name="random"))), manifest) is None

    recipe = changed(path, "train", initial="champion", learning_rate=1e-12, ema=0)
    start = starting_weights(recipe, manifest)
    assert start is not None
    assert "starts from the weights of models:/tiny/1" in capsys.readouterr().out
    assert (start.version, start.weights) == ("models:/tiny/1", trained.weights)
    names = {
        train.run_name(recipe, manifest, weights) for weights in ("", start.weights, "of another champion")
    }
    assert len(names) == 3

    champion = load_model(trained.model).state_dict()
    shards = trained.places.shards
    found = training.run(recipe, shards, threads=1, initial=start.directory).state_dict()
    for name, value in champion.items():  # four steps of 1e-12
        assert torch.allclose(found[name], value, rtol=0, atol=1e-10), name
    cold = training.run(recipe, shards, threads=1).state_dict()
    assert not all(torch.allclose(cold[name], value) for name, value in champion.items())

    other = changed(path, "model", hidden=9)
    assert starting_weights(other, manifest) is None
    assert "models:/tiny/1 has other model settings; starts at random" in capsys.readouterr().out


def test_a_champion_that_was_altered_is_refused_with_what_to_do(here: Path) -> None:
    path = tiny_recipe(here)
    trained = finished_run(path)
    register_trained(trained)
    recipe = changed(path, "train", initial="champion")
    for weights in (here / "mlartifacts").rglob("weights.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-4] + b"gone")
    manifest = read_manifest(places(recipe).shards)
    description = next((here / "mlartifacts").rglob("model.json"))
    description.write_text(json.dumps(json.loads(description.read_text()) | {"sha256": "0" * 64}))
    with pytest.raises(
        OperationalError, match=r"altered .*roll back .* or train with --set train\.initial=random"
    ):
        starting_weights(recipe, manifest)


def test_where_nothing_was_chosen_digests_are_those_of_before(here: Path) -> None:
    path = tiny_recipe(here)
    recipe = load_recipe(str(path))
    assert "initial" not in recipe.train.learned()
    assert changed(path, "train", initial="random").digest() == recipe.digest()
    assert changed(path, "train", initial="champion").digest() != recipe.digest()
