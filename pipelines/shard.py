"""Make the shards and the manifest of the recipe's set."""

from __future__ import annotations

import time

from pipelines.artifacts.places import places
from pipelines.artifacts.published import published_root
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from pipelines.publish import publish_shards
from pipelines.recipes import load_recipe
from seqgen.core.files import write_bytes


def shard(recipe: RecipeOption = None, settings: SetOption = None) -> None:
    """Make the shards and manifest of the recipe's set from the fetched files; with SEQGEN_SHARDS, publish them."""
    from data_prep.card import data_card
    from data_prep.shard_set import shard_set

    raise_on_stop()
    resolved = load_recipe(recipe, settings or ())
    where = places(resolved)
    start = time.monotonic()
    manifest = shard_set(resolved.data, where.raw, where.shards)
    write_bytes(where.data_card, data_card(manifest).encode())
    size = sum(shard.bytes for index in manifest.splits.values() for shard in index.shards)
    counts = ", ".join(f"{name} {index.images:,}" for name, index in manifest.splits.items())
    print(f"{manifest.title}: {counts}; {size / 1e6:.1f} MB in {time.monotonic() - start:.1f} s")
    if appearance := manifest.appearance():
        print(f"  {appearance}")
    print(f"  manifest {manifest.digest[:12]} in {where.shards}")
    if root := published_root():
        publish_shards(resolved, root)


if __name__ == "__main__":
    run(shard)
