"""Check a sharded set against its manifest, to the last sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.artifacts.places import places
from pipelines.artifacts.shards import shards_of, skip_bad_shards
from pipelines.cli.command import BadShardOption, RecipeOption, SetOption, run
from pipelines.recipes import load_recipe

DirectoryOption = Annotated[
    Path | None, typer.Option("--directory", help="One sharded set; default: the recipe's.")
]


def verify(
    recipe: RecipeOption = None,
    settings: SetOption = None,
    directory: DirectoryOption = None,
    on_bad_shard: BadShardOption = "refuse",
) -> None:
    """Check a sharded set against its manifest, to the last sample; names what is damaged.

    With SEQGEN_SHARDS a recipe's set is the published one, and `--on-bad-shard skip` takes the one made here.
    """
    from data_prep.verify import verify as verify_set
    from seqgen.core.errors import BadInput

    if directory is not None and (recipe or settings):
        raise BadInput("--directory is one set by itself; leave out --recipe and --set")
    if directory is None:
        wanted = load_recipe(recipe, settings or ())
        here, place = places(wanted).shards, shards_of(wanted, cached=False)
    else:
        here = place = directory
    if on_bad_shard == "skip":
        skip_bad_shards(here)
        place = here
    manifest = verify_set(place)
    shards = sum(len(index.shards) for index in manifest.splits.values())
    images = sum(index.images for index in manifest.splits.values())
    print(f"{place}: {shards} shards, {images:,} images, all whole ({manifest.title})")


if __name__ == "__main__":
    run(verify)
