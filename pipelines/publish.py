"""Put the recipe's shards where other machines read them."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.artifacts.places import places
from pipelines.artifacts.published import publish_set, published_root
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from pipelines.recipes import load_recipe
from seqgen.core.errors import BadInput
from seqgen.settings import Recipe

ToOption = Annotated[
    str | None,
    typer.Option("--to", help="s3://bucket/prefix or an absolute path. Default: SEQGEN_SHARDS."),
]


def publish(recipe: RecipeOption = None, settings: SetOption = None, to: ToOption = None) -> None:
    """Put the recipe's shards below SEQGEN_SHARDS, where trainings then read them; what is there stays."""
    raise_on_stop()
    resolved = load_recipe(recipe, settings or ())
    root = to or published_root()
    if not root:
        raise BadInput("no --to and no SEQGEN_SHARDS: name s3://<bucket>/<prefix> or an absolute path")
    publish_shards(resolved, root)


def publish_shards(recipe: Recipe, root: str) -> None:
    """Put the shards of `recipe` below `root` and say what was put."""
    address, sizes = f"{root.rstrip('/')}/{recipe.name}", []
    manifest = publish_set(places(recipe).shards, address, lambda shard: sizes.append(shard.bytes))
    shards = sum(len(index.shards) for index in manifest.splits.values())
    print(
        f"{address}: {len(sizes)} of {shards} shards put ({sum(sizes) / 1e6:.1f} MB), the others were there"
    )
    print(f"  manifest {manifest.digest[:12]} ({manifest.title})")


if __name__ == "__main__":
    run(publish)
