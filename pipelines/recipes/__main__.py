"""List the recipes there are."""

from __future__ import annotations

from pipelines.cli.command import run
from pipelines.recipes import load_recipe, recipe_names


def recipes() -> None:
    """List the recipes there are, the project's and the package's, with what each is for."""
    names = recipe_names()
    width = max(map(len, names))
    for name in names:
        print(f"{name:{width}}  {load_recipe(name).description}")


if __name__ == "__main__":
    run(recipes)
