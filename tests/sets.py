"""Tiny sharded sets for tests, written with the project's own writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.shard_files import encode_sample, write_shard
from seqgen.core.files import file_sha256
from seqgen.data.batches import TrainingBatches
from seqgen.data.images import load_split
from seqgen.data.manifest import Manifest, SourceFile, SplitIndex
from seqgen.data.settings import Binarise, DataConfig
from seqgen.settings import Recipe

SIZE = 28
Sample = tuple[np.ndarray, dict[str, Any]]


def write_digits(
    directory: Path,
    counts: dict[str, int] | None = None,
    seed: int = 0,
    binarise: Binarise = "dynamic",
    shards: int = 1,
) -> np.ndarray:
    """A grey set of bars of four classes, in chunks of 16; returns the training images uint8 [N,28,28].

    `shards` is in how many files each split lies, of which those are empty that find no chunk.
    """
    rng = np.random.default_rng(seed)
    splits: dict[str, list[Sample]] = {}
    for split, count in (counts or {"train": 64, "valid": 20, "test": 20}).items():
        labels = np.arange(count) % 4
        images = np.zeros((count, SIZE, SIZE), np.uint8)
        for number, label in enumerate(labels):
            images[number, 4 + 5 * label : 8 + 5 * label, 5:23] = rng.integers(150, 256)
        splits[split] = [
            (images[at : at + 16], {"labels": [int(label) for label in labels[at : at + 16]]})
            for at in range(0, count, 16)
        ]
    data = DataConfig(source="mnist-5k", size=SIZE, binarise=binarise)
    return _write(directory, data, splits, 256, shards)


def write_strokes(directory: Path, seed: int = 0) -> np.ndarray:
    """A two-level set of characters with 4 drawings each; returns the training images uint8 [N,28,28]."""
    rng = np.random.default_rng(seed)
    splits: dict[str, list[Sample]] = {}
    for split, alphabets in {"train": ("A0", "A1"), "valid": ("A2",), "test": ("A3",)}.items():
        splits[split] = []
        for alphabet in alphabets:
            for number in range(4):
                images = np.zeros((4, SIZE, SIZE), np.uint8)
                row, column = rng.integers(3, 20, 2)
                for drawing in images:
                    drawing[row : row + 5, 2:26] = 1
                    drawing[2:26, column + rng.integers(0, 3)] = 1
                meta = {"alphabet": alphabet, "character": f"c{number}", "concept": f"{alphabet}/c{number}"}
                splits[split].append((images, {**meta, "drawers": [1, 2, 3, 4]}))
    data = DataConfig(source="omniglot-strokes", size=SIZE, split="30-20", binarise="static")
    return _write(directory, data, splits, 2)


def write_flat(directory: Path, count: int) -> None:
    """A two-level set of `count` bars in each split, of which neither character nor class is known."""
    images = np.zeros((count, SIZE, SIZE), np.uint8)
    for number, image in enumerate(images):
        image[3 + number % 20 : 6 + number % 20, 4:24] = 1
    data = DataConfig(source="folder", path="none", size=SIZE, binarise="static")
    _write(directory, data, {split: [(images, {})] for split in ("train", "valid", "test")}, 2)


def _write(
    directory: Path, data: DataConfig, splits: dict[str, list[Sample]], levels: int, shards: int = 1
) -> np.ndarray:
    directory.mkdir(parents=True, exist_ok=True)
    index = {}
    for split, samples in splits.items():
        empty = dict.fromkeys(("alphabet", "character", "concept", "drawers", "labels"))
        encoded = [
            encode_sample(f"{key:06d}", images, levels, {"dataset": data.source, **empty, **meta})
            for key, (images, meta) in enumerate(samples)
        ]
        each = -(-len(encoded) // shards)
        written = tuple(
            write_shard(directory / f"{split}-{n:06d}.tar", encoded[n * each : (n + 1) * each])
            for n in range(shards)
        )
        concepts = {m["concept"] for _, m in samples if "concept" in m} or set("0123")
        images = sum(shard.images for shard in written)
        index[split] = SplitIndex(images=images, concepts=tuple(sorted(concepts)), shards=written)
    train = np.concatenate([np.zeros((0, SIZE, SIZE), np.uint8), *(images for images, _ in splits["train"])])
    Manifest(
        title="test set",
        data=data,
        height=SIZE,
        width=SIZE,
        levels=levels,  # type: ignore[arg-type]
        mean=int(train.sum(dtype=int)) / (max(1, train.size) * (levels - 1)),
        sources=(SourceFile(name="none", sha256="0" * 64),),
        splits=index,
    ).write(directory)
    return train


def digests(directory: Path) -> dict[str, str]:
    """The sha256 of every file, by name."""
    return {path.name: file_sha256(path) for path in directory.iterdir()}


def training_steps(shards: Path, recipe: Recipe, size: int) -> list[list[torch.Tensor]]:
    """The batches of an epoch of each of `size` ranks."""
    images = load_split(shards, "train")
    ranks = [
        TrainingBatches(images, recipe.data, 16, conditional=False, seed=0, rank=rank, size=size)
        for rank in range(size)
    ]
    return [[batches.at(0, step).x for step in range(batches.steps)] for batches in ranks]
