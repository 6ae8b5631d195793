"""The shards that a recipe trains on, checked before any training is started."""

from __future__ import annotations

from pipelines.artifacts.places import places
from seqgen.core.errors import BadInput
from seqgen.data.manifest import Manifest, check_shard_bytes, read_manifest
from seqgen.settings import Recipe


def checked_manifest(recipe: Recipe) -> Manifest:
    """The manifest of the recipe's shards, checked against the recipe and against the files.

    Raises BadInput (absent, made with other settings, or fewer images than a batch), OperationalError (damaged).
    """
    directory, remedy = places(recipe).shards, f"run `python -m pipelines.shard --recipe {recipe.name}`"
    manifest = read_manifest(directory)
    size = recipe.data.size
    if manifest.data != recipe.data or (manifest.height, manifest.width) != (size, size):
        raise BadInput(f"{directory}: shards of other data settings; {remedy}")
    for split in ("train", "valid"):
        if split not in manifest.splits:
            raise BadInput(f"{directory}: no split {split}; {remedy}")
        for shard in manifest.splits[split].shards:
            check_shard_bytes(directory, shard)
    images = manifest.splits["train"].images
    if recipe.train.batch > images:
        raise BadInput(f"train.batch={recipe.train.batch} exceeds the {images} training images: choose less")
    return manifest
