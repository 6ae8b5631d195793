"""Check sharded sets against their manifests, to the last sample; names what is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.recipe import load_recipe, places
from pipelines.verb import RecipeOption, SetOption, run

DirectoryOption = Annotated[
    Path | None, typer.Option("--directory", help="One sharded set; default: all sets of the recipe.")
]


def verify(
    recipe: RecipeOption = None, settings: SetOption = None, directory: DirectoryOption = None
) -> None:
    """Check sharded sets against their manifests, to the last sample; names what is damaged."""
    from data_prep.errors import BadInput
    from data_prep.shard_set import set_name
    from data_prep.verify import verify as verify_set

    if directory is not None:
        if recipe or settings:
            raise BadInput("--directory is one set by itself; leave out --recipe and --set")
        directories = [directory]
    else:
        resolved = load_recipe(recipe, settings or ())
        where = places(resolved)
        directories = [where.shards, *(where.also / set_name(data) for data in resolved.also_shard)]
    for path in dict.fromkeys(directories):
        manifest = verify_set(path)
        shards = sum(len(index.shards) for index in manifest.splits.values())
        images = sum(index.images for index in manifest.splits.values())
        print(f"{path}: {shards} shards, {images:,} images, all whole ({manifest.title})")


if __name__ == "__main__":
    run(verify)
