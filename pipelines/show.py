"""Print a recipe in full, as YAML that is itself a recipe."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.command import SetOption, recipes_from, run
from pipelines.recipes import load_recipe
from seqgen.core.yaml import format_yaml

RecipeArgument = Annotated[
    str | None,
    typer.Argument(help="Recipe name or YAML file; default: params.yaml's.", autocompletion=recipes_from),
]


def show(recipe: RecipeArgument = None, settings: SetOption = None) -> None:
    """Print a recipe in full, every default filled in, as YAML that is itself a recipe."""
    tree = load_recipe(recipe, settings or ()).model_dump(mode="json", by_alias=True)
    print(format_yaml(tree), end="")


if __name__ == "__main__":
    run(show)
