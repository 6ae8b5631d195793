"""List the recipes that come with the project."""

from __future__ import annotations

from pipelines.cli.command import run
from pipelines.recipes import RECIPES, recipe_names
from seqgen.core.yaml import read_yaml


def recipes() -> None:
    """List the recipes that come with the project, with what each is for."""
    names = recipe_names()
    width = max(map(len, names))
    for name in names:
        print(f"{name:{width}}  {read_yaml(RECIPES / f'{name}.yaml').get('description', '')}")


if __name__ == "__main__":
    run(recipes)
