"""A folder of pictures from its files to a bound, and what is then made of the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.distributions import Normal

from data_prep.fetch import fetch
from data_prep.shard_set import shard_set
from seqgen import training
from seqgen.data.batches import fixed_set
from seqgen.data.images import load_split
from seqgen.drawing.galleries import draw_sheets
from seqgen.evaluation.bounds import hold_out, measure
from seqgen.settings import Recipe, build_recipe

SIZE = 12


def write_pictures(folder: Path, count: int) -> None:
    """Dark balls in colour: where one is, how large and how bright is all that differs, and some noise."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:24, :30]
    folder.mkdir()
    for number in range(count):
        y, x, radius = random.uniform(8, 16), random.uniform(11, 19), random.uniform(3, 7)
        dark = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * radius**2))
        grey = 225 - random.uniform(80, 200) * dark + random.normal(0, 2, dark.shape)
        pixels = np.stack([grey, grey, grey * 0.9], 2).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels[:, 3:-3]).save(folder / f"{number:04d}.png")


def recipe_of(folder: Path, observation: str) -> Recipe:
    return build_recipe(
        {
            "name": "balls",
            "description": "for tests",
            "data": {"source": "folder", "path": str(folder), "size": SIZE, "binarise": "grey"},
            "model": {
                "steps": 4,
                "latents": 4,
                "hidden": 48,
                "attention": "full",
                "canvas": "additive",
                "observation": observation,
                "posterior_hidden": 48,
            },
            "train": {"epochs": 20, "batch": 20, "workers": 1, "learning_rate": 3e-3, "ema": 0.9},
            "evaluate": {"importance_samples": 5, "importance_images": 10},
            "register": {"name": "balls"},
        },
        "here",
    )


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The place of a folder `pictures` and of its shards."""
    place = tmp_path_factory.mktemp("balls")
    write_pictures(place / "pictures", 400)
    fetch(["folder"], place / "raw", folder=str(place / "pictures"), notice=lambda line: None)
    shard_set(recipe_of(place / "pictures", "gaussian").data, place / "raw", place / "shards", processes=1)
    return place


def independent_gaussians(train: Tensor, held_out: Tensor) -> float:
    """-log p of `held_out` [N,H,W] under a Gaussian for each pixel with its mean and variance in `train`, nats."""
    pixels = Normal(train.double().mean(0), train.double().std(0))
    return -pixels.log_prob(held_out.double()).sum((1, 2)).mean().item()


@pytest.mark.parametrize("observation", ["gaussian", "logit-normal"])
def test_a_folder_is_learned_far_better_than_its_pixels_means_and_variances(balls: Path, observation: str):
    recipe = recipe_of(balls / "pictures", observation)
    bounds: list[float] = []
    model = training.run(
        recipe,
        balls / "shards",
        threads=1,
        callbacks=[
            training.EachEpoch(
                lambda progress, save: bounds.append(progress.metrics[recipe.data.held_out_metric])
            )
        ],
    )
    train, valid = (load_split(balls / "shards", split) for split in ("train", "valid"))
    seen = [fixed_set(images, recipe.data, False, recipe.train.seed).x for images in (train, valid)]
    baseline = independent_gaussians(*seen)
    assert bounds[-1] < baseline - 50  # nats, of about -156
    held_out = hold_out(valid, recipe.data, False, 0)
    measured = measure(model, held_out, recipe.evaluate)
    assert measured.metrics["iwae_5"] < measured.metrics["bound"] < baseline - 50
    first, again = (draw_sheets(model, held_out, 0) for _ in range(2))
    assert {name: sheet.tobytes() for name, sheet in first.items()} == {
        name: sheet.tobytes() for name, sheet in again.items()
    }
    assert set(first) == {"samples", "reconstructions", "canvas"}
    likelihood = model.infer(held_out.x, None, model.noise(len(valid), torch.Generator())).likelihood
    error = (likelihood.mean - held_out.x).square().mean()
    assert error < 0.25 * held_out.x.var(0).mean()  # it draws what it was shown
