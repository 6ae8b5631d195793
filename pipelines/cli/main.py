"""The `seqgen` command: one verb a run of the line, and the recipes to run it with."""

from __future__ import annotations

import ast
import difflib
import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.command import SetOption, run

_ORDER = ("fetch", "shard", "verify", "tune", "train", "evaluate", "register", "report")


def recipes() -> None:
    """List the recipes that come with the project, with what each is for."""
    from pipelines.recipes import RECIPES, recipe_names
    from seqgen.core.yaml import read_yaml

    names = recipe_names()
    width = max(map(len, names))
    for name in names:
        print(f"{name:{width}}  {read_yaml(RECIPES / f'{name}.yaml').get('description', '')}")


def show(
    recipe: Annotated[
        str | None, typer.Argument(help="Recipe name or YAML file; default: params.yaml's.")
    ] = None,
    settings: SetOption = None,
) -> None:
    """Print a recipe in full, every default filled in, as YAML that is itself a recipe."""
    import yaml

    from pipelines.recipes import load_recipe

    tree = load_recipe(recipe, settings or ()).model_dump(mode="json", by_alias=True)
    print(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100), end="")


_BUILT_IN = {"recipes": recipes, "show": show}


def verbs() -> dict[str, str]:
    """Every verb and its line of help, read from the files without importing them; the pipeline's first."""
    found = {name: (command.__doc__ or "").strip() for name, command in _BUILT_IN.items()}
    for path in Path(__file__).parent.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        if f"run({path.stem})" in source:
            found[path.stem] = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    first = [verb for verb in _ORDER if verb in found]
    return {verb: found[verb] for verb in [*first, *sorted(set(found) - set(first))]}


def _usage(known: dict[str, str]) -> str:
    width = max(map(len, known))
    lines = [f"  {verb:{width}}  {line}" for verb, line in known.items()]
    return "\n".join(
        ["usage: seqgen VERB [OPTIONS]      (seqgen VERB --help says what it takes)", "", *lines]
    )


def main(arguments: list[str] | None = None) -> None:
    """Run `seqgen VERB ...` and exit with the verb's code; an unknown verb is bad input (2)."""
    verb, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    known = verbs()
    if verb in ("-h", "--help"):
        print(_usage(known))
        sys.exit(0)
    if verb not in known:
        near = difflib.get_close_matches(verb, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        print(f"error: seqgen has no verb {verb!r} ({hint})", file=sys.stderr)
        sys.exit(2)
    run(_BUILT_IN.get(verb) or getattr(importlib.import_module(f"pipelines.{verb}"), verb), rest)


if __name__ == "__main__":
    main()
