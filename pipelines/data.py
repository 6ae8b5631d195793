"""Look at the data of a recipe."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from pipelines.artifacts.places import places
from pipelines.artifacts.shards import checked_manifest, shards_of
from pipelines.cli.command import SetOption, recipes_from, run
from pipelines.cli.signals import raise_on_stop
from pipelines.recipes import load_recipe
from seqgen.core.files import write_bytes

ActionArgument = Annotated[Literal["show"], typer.Argument()]
RecipeArgument = Annotated[
    str | None,
    typer.Argument(help="Recipe name or YAML file; default: params.yaml's.", autocompletion=recipes_from),
]


def data(action: ActionArgument, recipe: RecipeArgument = None, settings: SetOption = None) -> None:
    """Look at the data of a recipe that was sharded.

    show: draw images of every split, as a model sees them, into artifacts/<recipe>/data-sheet.png.
    """
    from seqgen.data.images import load_split
    from seqgen.drawing.data_sheet import data_sheet
    from seqgen.drawing.pictures import png
    from seqgen.training.memory import image_memory

    raise_on_stop()
    resolved = load_recipe(recipe, settings or ())
    manifest = checked_manifest(resolved)
    place, path = shards_of(resolved), places(resolved).data_sheet
    room = image_memory()
    splits = {
        split: load_split(place, split, memory=room)
        for split, index in manifest.splits.items()
        if index.images
    }
    write_bytes(path, png(data_sheet(manifest, splits, resolved.train.seed)))
    print(f"{manifest.title}: {', '.join(f'{split} {len(images):,}' for split, images in splits.items())}")
    if appearance := manifest.appearance():
        print(f"  {appearance}")
    print(f"  {os.path.relpath(path)}")


if __name__ == "__main__":
    run(data)
