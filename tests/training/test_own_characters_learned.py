"""Characters of one's own folder, with alphabets and without: a conditional model learns them and is measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.fetch import fetch
from data_prep.shard_set import shard_set
from pipelines.evaluate.measuring import about_errors
from seqgen import training
from seqgen.data.images import load_split
from seqgen.evaluation.bounds import hold_out, measure
from seqgen.settings import Recipe, build_recipe

SIZE = 10


def recipe_of(folder: Path, pairs: str) -> Recipe:
    return build_recipe(
        {
            "name": "mine",
            "description": "for tests",
            "data": {
                "source": "folder",
                "path": str(folder),
                "size": SIZE,
                "split": "concepts",
                "paper": "auto",
                "binarise": "static",
            },
            "model": {
                "steps": 2,
                "latents": 4,
                "hidden": 24,
                "attention": "full",
                "canvas": "additive",
                "conditional": True,
            },
            "train": {
                "epochs": 8,
                "batch": 20,
                "workers": 1,
                "learning_rate": 5e-3,
                "ema": 0,
                "pairs": pairs,
            },
            "evaluate": {"importance_samples": 3, "importance_images": 8},
            "register": {"name": "mine"},
        },
        "here",
    )


@pytest.mark.parametrize(("place", "pairs"), [("c{}", "character"), ("A/c{}", "alphabet")])
def test_it_is_learned_and_its_errors_are_over_characters(place: str, pairs: str, tmp_path: Path):
    random = np.random.default_rng(0)
    for number in range(20):
        folder = tmp_path / "mine" / place.format(number)
        folder.mkdir(parents=True)
        for drawing in range(5):  # light on dark: a bar where this concept has it, a pixel or two from there
            pixels = np.full((20, 20), 30, np.uint8)
            pixels[3 + number % 4 * 4 + random.integers(2) :][:3, 2 + number // 4 : 18 - drawing] = 220
            pixels[0, 0] = number * 5 + drawing  # no two are the same
            Image.fromarray(pixels).save(folder / f"{drawing}.png")
    recipe = recipe_of(tmp_path / "mine", pairs)
    fetch(["folder"], tmp_path / "raw", folder=recipe.data.path, notice=lambda line: None)
    manifest = shard_set(recipe.data, tmp_path / "raw", tmp_path / "shards", processes=1)
    assert manifest.looks is not None
    assert manifest.looks.paper == "dark"

    found: list[float] = []
    model = training.run(
        recipe,
        tmp_path / "shards",
        threads=1,
        callbacks=[
            training.EachEpoch(
                lambda progress, save: found.append(progress.metrics[recipe.data.held_out_metric])
            )
        ],
    )
    assert found[-1] < found[0] - 3  # nats, of about 38 after the first epoch
    held_out = hold_out(
        load_split(tmp_path / "shards", "test"), recipe.data, True, 0, pairs=recipe.train.pairs
    )
    assert held_out.groups is not None
    assert (held_out.alphabets is None) is (pairs == "character")
    metrics = measure(model, held_out, recipe.evaluate).metrics
    assert np.isfinite(metrics["bound"])
    assert metrics["bound_se"] > 0
    assert about_errors(held_out)["characters"] == 2
    assert "alphabets" in about_errors(held_out) or pairs == "character"
