"""Fetch the raw files of the recipe's set and verify them."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from pipelines.artifacts.places import places
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.progress import Display
from pipelines.cli.signals import raise_on_stop
from pipelines.recipes import load_recipe

MirrorOption = Annotated[
    str | None,
    typer.Option(
        "--mirror",
        help="Ask here first: a folder, s3://bucket/prefix or https://host/path. Default: SEQGEN_MIRROR.",
    ),
]


def fetch(recipe: RecipeOption = None, settings: SetOption = None, mirror: MirrorOption = None) -> None:
    """Fetch the raw files of the recipe's set, verified, from a mirror or where they are published."""
    from data_prep.fetch import fetch as fetch_sources

    raise_on_stop()
    resolved = load_recipe(recipe, settings or ())
    where = places(resolved)
    with Display("bytes") as display:
        paths = fetch_sources(
            [resolved.data.source],
            where.raw,
            mirror or os.environ.get("SEQGEN_MIRROR") or None,
            notice=display.say,
            progress=lambda file, done, total: display.at(file.path, done, total),
            folder=resolved.data.path,
            shards=where.shards,
            concepts=resolved.data.has_characters,
        )
    print(f"fetched {len(paths)} files to {os.path.relpath(where.raw)}")


if __name__ == "__main__":
    run(fetch)
