"""Gather the tables and figures of recipes into one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.artifacts.one_shot import read_tables
from pipelines.artifacts.places import places
from pipelines.artifacts.trained_model import TrainedModel, load_as_recipe
from pipelines.cli.command import run
from pipelines.evaluate.contexts import PUBLISHED
from pipelines.recipes import load_recipe, recipe_names
from seqgen.core.errors import BadInput
from seqgen.core.files import write_bytes, write_json

TEMPLATE = Path(__file__).parent / "templates" / "results.md"
_MAIN = "one-shot"
RecipesArgument = Annotated[
    list[str] | None, typer.Argument(help="Recipes; default: all whose tables are here.")
]
ToOption = Annotated[Path, typer.Option("--to", help="The folder of the page's numbers and pictures.")]
MachineOption = Annotated[str, typer.Option("--machine", help="What it was trained on, for the page.")]


@dataclass(frozen=True)
class Source:
    """A recipe's model and what the verbs left of it."""

    trained: TrainedModel
    tables: list[dict[str, Any]]

    @property
    def label(self) -> str:
        """What its numbers' names end with: nothing for the main recipe, else what its name adds to that."""
        name = self.trained.recipe.name
        return "" if name == _MAIN else "_" + name.removeprefix(f"{_MAIN}-").replace("-", "_")

    def budget(self) -> dict[str, Any]:
        """What the training took."""
        recipe, run = self.trained.recipe, self.trained.run
        return {
            "images": run["steps"] * recipe.train.batch,
            "epochs": run["epochs"],
            "minutes": round(self.trained.seconds / 60, 1),
            "description": recipe.description,
            "command": f"python -m pipelines.train --recipe {recipe.name} --workers {recipe.train.workers}",
        }


def results(
    recipes: RecipesArgument = None, to: ToOption = Path("docs/results"), machine: MachineOption = ""
) -> None:
    """Write one_shot.json and the pictures below --to, and beside that folder the page <folder>.md.

    A number's name is its table's, with the recipe's after it where it is not `one-shot`; a foreign context's cost has
    the size of the images.
    """
    import jinja2

    sources = [read(name) for name in recipes or _known()]
    if not sources:
        raise BadInput("no recipe has tables of one-shot evaluation here; run `seqgen contexts`")
    numbers = gather(sources)
    pictures = {name: content for source in sources for name, content in _pictures(source)}
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        n=numbers["numbers"],
        budgets=numbers["budgets"],
        published=PUBLISHED,
        commands=[line for source in sources for table in source.tables for line in _commands(table)],
        pictures=sorted(pictures),
        folder=to.name,
        machine=machine,
        bar=_bar,
    )
    about = {"budgets": numbers["budgets"], "machine": machine}
    write_json(to / "one_shot.json", {**numbers["numbers"], **about})
    for name, content in pictures.items():
        write_bytes(to / name, content)
    write_bytes(to.parent / f"{to.name}.md", page.encode())
    print(f"written: {to.parent / f'{to.name}.md'}, {to / 'one_shot.json'}, {len(pictures)} pictures")


def read(name: str) -> Source:
    """A recipe's source. Raises BadInput if it was not trained as the recipe is now, or not measured on test."""
    trained = load_as_recipe(name)
    tables = read_tables(trained)
    for table in tables:
        if table["split"] != "test":
            raise BadInput(f"measured on {table['split']}: {table['command']}; measure on test")
    return Source(trained, tables)


def gather(sources: Sequence[Source]) -> dict[str, Any]:
    """All numbers by name, and the budgets by recipe. Raises BadInput where two numbers would have one name."""
    numbers: dict[str, Any] = {}
    for source in sources:
        for table in source.tables:
            for name, one in table["entries"].items():
                extra = {"command": table["command"], "recipe": source.trained.recipe.name}
                named = _named(name, source)
                if named in numbers:
                    raise BadInput(
                        f"{named}: both of `{numbers[named]['command']}` and of `{table['command']}`"
                    )
                numbers[named] = {**one, **extra}
    return {
        "numbers": dict(sorted(numbers.items())),
        "budgets": {source.trained.recipe.name: source.budget() for source in sources},
    }


def _named(name: str, source: Source) -> str:
    if name == "foreign_context_cost":
        name = f"{name}_{source.trained.recipe.data.side}"
    return name if f"{source.label}_" in f"{name}_" else name + source.label


def _commands(table: Mapping[str, Any]) -> list[str]:
    return [*filter(None, [table["about"].get("needs")]), table["command"]]


def _pictures(source: Source) -> list[tuple[str, bytes]]:
    """The figures of a recipe by the name they get."""
    folder = source.trained.places.one_shot
    names = {table["about"]["picture"] for table in source.tables if "picture" in table["about"]}
    found = [folder / name for name in sorted(names)]
    return [
        (f"{source.trained.recipe.name}-{path.name}", path.read_bytes()) for path in found if path.is_file()
    ]


def _known() -> list[str]:
    """The one-shot recipes that come with the project and were trained and measured here."""
    return [
        name
        for name in recipe_names()
        if name.startswith(_MAIN)
        and (where := places(load_recipe(name))).one_shot.is_dir()
        and (where.train / "recipe.json").is_file()
    ]


def _bar(number: Mapping[str, Any] | None, bar: float, *, lower: bool) -> str:
    """Whether a number is at its bar, as the page says it."""
    if number is None:
        return "not measured"
    met = number["value"] <= bar if lower else number["value"] >= bar
    return "met" if met else "not met"


if __name__ == "__main__":
    run(results)
