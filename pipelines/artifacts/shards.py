"""The shards that a recipe trains on, checked before any training is started."""

from __future__ import annotations

from pathlib import Path

from pipelines.artifacts.places import places
from pipelines.artifacts.published import check_published, opened, published_root
from seqgen.core.errors import BadInput
from seqgen.data.manifest import FILE_NAME, Manifest, Place, check_shard_bytes, read_manifest
from seqgen.settings import Recipe


def shards_of(recipe: Recipe) -> Place:
    """Where the shards of `recipe` are read from: SEQGEN_SHARDS/<recipe>, else where `shard` makes them."""
    root = published_root()
    return opened(f"{root}/{recipe.name}") if root else places(recipe).shards


def checked_manifest(recipe: Recipe) -> Manifest:
    """The manifest of the recipe's shards, checked against the recipe and against the files.

    Of published shards only that they are there: each is confirmed when it is fetched. Raises BadInput (absent, made
    with other settings, other than those made here, or fewer images than a batch), OperationalError (damaged).
    """
    here, place = places(recipe).shards, shards_of(recipe)
    remedy = f"run `python -m pipelines.shard --recipe {recipe.name}`"
    manifest = read_manifest(place)
    if place != here:
        remedy = f"run `python -m pipelines.publish --recipe {recipe.name}`"
        if (here / FILE_NAME).is_file() and read_manifest(here).digest != manifest.digest:
            raise BadInput(f"{place}: other shards than those made in {here}; {remedy}")
    size = recipe.data.size
    if manifest.data != recipe.data or (manifest.height, manifest.width) != (size, size):
        raise BadInput(f"{place}: shards of other data settings; {remedy}")
    for split in ("train", "valid"):
        if split not in manifest.splits:
            raise BadInput(f"{place}: no split {split}; {remedy}")
        shards = manifest.splits[split].shards
        if not isinstance(place, Path):
            check_published(place, shards)
            continue
        for shard in shards:
            check_shard_bytes(place, shard)
    images = manifest.splits["train"].images
    if recipe.train.batch > images:
        raise BadInput(f"train.batch={recipe.train.batch} exceeds the {images} training images: choose less")
    return manifest
