"""A set of seven training shards of drawings, no two alike, and a recipe that trains on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data_prep.shard_files import encode_sample, write_shard
from seqgen.data.manifest import Manifest, Shard, SplitIndex
from seqgen.data.settings import DataConfig
from seqgen.settings import Recipe, build_recipe
from tests.finished_run import MODEL

SIZE, EACH = 28, 10  # of an image; drawings of a character
COUNTS = (30, 30, 30, 30, 30, 30, 20)
DATA = DataConfig(source="omniglot-strokes", size=SIZE, split="30-20", binarise="static")


def write_set(directory: Path) -> Manifest:
    """Write it: the bits of a drawing's number stand in its first column."""
    directory.mkdir(parents=True, exist_ok=True)
    number = 0

    def shard(split: str, index: int, count: int) -> Shard:
        nonlocal number
        samples = []
        for start in range(0, count, EACH):
            images = np.zeros((EACH, SIZE, SIZE), np.uint8)
            for drawing in images:
                drawing[:16, 0] = number >> np.arange(16) & 1
                drawing[5:20, 5 + number % 10] = 1
                number += 1
            concept = f"A{index}/{split}{index}-{start}"
            meta = {
                "dataset": "test",
                "labels": None,
                "drawers": list(range(1, EACH + 1)),
                "concept": concept,
            }
            meta |= {"alphabet": f"A{index}", "character": concept}
            samples.append(encode_sample(f"{start:06d}", images, 2, meta))
        return write_shard(directory / f"{split}-{index:06d}.tar", samples)

    splits = {}
    for split, counts in {"train": COUNTS, "valid": (30,), "test": (30,)}.items():
        shards = tuple(shard(split, index, count) for index, count in enumerate(counts))
        splits[split] = SplitIndex(images=sum(counts), concepts=(), shards=shards)
    return Manifest(
        title="test set", data=DATA, height=SIZE, width=SIZE, levels=2, mean=0.1, sources=(), splits=splits
    ).write(directory)


def recipe_of(**train: Any) -> Recipe:
    """A recipe of this set, with these settings of its training."""
    tree = {
        "name": "streamed",
        "description": "for tests",
        "data": DATA.model_dump(mode="json"),
        "model": {**MODEL, "observation": "identity", "conditional": True},
        "train": {"epochs": 2, "batch": 12, "learning_rate": 0.001, **train},
        "evaluate": {"importance_samples": 2},
        "register": {"name": "streamed"},
    }
    return build_recipe(tree, "test")
