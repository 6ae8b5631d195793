"""Case 42: what is worse, equal, no number, of other images or incomplete does not become champion."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.artifacts.trained_model import load_trained_model
from pipelines.registry import promotion, versions
from pipelines.registry.competition import competition
from pipelines.tracking import runs
from seqgen.core.files import write_json
from seqgen.data.manifest import read_manifest
from tests.finished_run import WORSE, finished_run, stored, tiny_recipe, write_evaluation
from tests.registries import champion, registered, said, version


def test_42_what_is_worse_or_equal_or_within_noise_is_kept_out(
    here: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe = tiny_recipe(here)
    registered(finished_run(recipe))
    for mean, why in ((None, "equal"), (WORSE, "worse by")):
        finished_run(recipe, mean=mean)
        code, out = said(capsys, "register", "--recipe", str(recipe))
        assert code == 0
        assert "kept champion v1 because held-out bound" in out
        assert why in out
        assert "20 paired images" in out
    assert champion() == "1"
    better = finished_run(recipe, seed=1)
    evaluation, _ = competition(better)
    noise = promotion.decide(
        evaluation, versions.fetch_evaluation(runs.connect(), version("1")), "v1", promotion.Rule()
    )
    assert noise.difference is not None
    assert noise.difference_se is not None
    assert noise.promoted == (noise.difference > 2.136 * noise.difference_se)  # 2 of Student's t, 19 degrees


def test_42_a_gain_can_be_asked_for(here: Path) -> None:
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    finished_run(recipe)
    assert not registered(load_trained_model(str(recipe), ["register.min_gain=10000.0"]))["promoted"]
    assert not registered(load_trained_model(str(recipe), ["register.z=1000000000.0"]))["promoted"]
    better = registered(load_trained_model(str(recipe)))
    assert better["promoted"]
    assert better["difference"] > 10 * better["difference_se"] > 0


def test_42_a_bound_that_is_not_a_number_never_wins(here: Path, capsys: pytest.CaptureFixture) -> None:
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    trained = finished_run(recipe)
    tensors = load_file(trained.model / "weights.safetensors")
    save_file(
        {name: torch.full_like(each, torch.nan) for name, each in tensors.items()},
        trained.model / "weights.safetensors",
    )
    trained = load_trained_model(str(recipe))
    description = json.loads((trained.model / "model.json").read_text())
    write_json(trained.model / "model.json", {**description, "sha256": trained.weights})
    evaluation = json.loads((trained.places.evaluate / "evaluation.json").read_text())
    write_json(trained.places.evaluate / "evaluation.json", {**evaluation, "weights": trained.weights})
    code, out = said(capsys, "register", "--recipe", str(recipe))
    assert (code, champion()) == (0, "1")
    assert "kept champion v1 because its held-out bound on valid is nan; tiny version 2 is a candidate" in out
    assert version("2").tags["promotion"] == "not promoted"


def test_42_another_evaluation_manifest_is_refused_unless_asked(
    here: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    shutil.rmtree(here / "artifacts/tiny/shards")
    finished_run(recipe, data_seed=1)
    code, out = said(capsys, "register", "--recipe", str(recipe))
    assert (code, champion()) == (0, "1")
    assert (
        "kept champion v1 because champion version 1 cannot be compared: its evaluation manifest has other"
        in out
    )
    assert "--set register.other_images=measure" in out
    result = registered(load_trained_model(str(recipe), ["register.other_images=measure"]))
    assert result["promoted"]
    assert "measured again" in result["reason"]
    assert result["difference"] > 10 * result["difference_se"] > 0


def test_42_new_training_shards_beside_the_same_evaluation_compete(here: Path) -> None:
    """A manifest n+1 whose valid is that of manifest n: the bounds are paired, and nothing is measured again."""
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    before = (here / "artifacts/tiny/shards").rename(here / "before")
    finished_run(recipe, data_seed=1)
    grown = here / "artifacts/tiny/shards"
    manifest = json.loads((before / "manifest.json").read_text())
    other = json.loads((grown / "manifest.json").read_text())
    assert manifest != other
    joined = read_manifest(before).model_copy(
        update={"splits": {**read_manifest(before).splits, "train": read_manifest(grown).splits["train"]}}
    )
    for shard in joined.splits["valid"].shards + joined.splits["test"].shards:
        shutil.copyfile(before / shard.name, grown / shard.name)
    joined.write(grown)
    result = registered(finished_run(recipe))
    assert result["promoted"]
    assert "measured again" not in result["reason"]


def test_42_a_metric_that_is_missing(here: Path, capsys: pytest.CaptureFixture) -> None:
    """Of the candidate, of the version that is to be promoted by hand, and of the champion."""
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    trained = finished_run(recipe)
    (trained.places.evaluate / "metrics.json").unlink()
    code, out = said(capsys, "register", "--recipe", str(recipe))
    assert code == 2
    assert "metrics.json: missing; run `seqgen evaluate" in out
    write_evaluation(trained)
    registered(trained)
    assert champion() == "2"
    (stored(here) / "bounds.npy").unlink()
    code, out = said(capsys, "models", "promote", "tiny", "1")
    assert (code, champion()) == (0, "2")
    assert "kept champion v2 because version 1 has no evaluation" in out
    bounds = stored(here, "2") / "bounds.npy"
    np.save(bounds, np.load(bounds) + 1000)  # so that it would lose
    finished_run(recipe, mean=0.3)
    code, out = said(capsys, "register", "--recipe", str(recipe))
    assert (code, champion()) == (0, "2")
    assert "its bounds.npy was altered" in out
    bounds.unlink()
    finished_run(recipe, mean=0.3)
    code, out = said(capsys, "register", "--recipe", str(recipe))
    assert (code, champion()) == (0, "2")
    assert "kept champion v2 because champion version 2 cannot be compared" in out
