"""Which run a verb works on: a named recipe or a file, single values set over it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from seqgen.core.errors import BadInput
from seqgen.core.yaml import read_yaml
from seqgen.settings import Recipe, build_recipe, parse_assignment, read_recipe, with_settings
from seqgen.settings.kinds import chosen, owners, within

RECIPES = Path(__file__).parent
OWN = Path("recipes")  # of the working directory, where `seqgen quickstart` made it: they come first


def recipe_names() -> list[str]:
    """The names of the recipes there are: those of the working directory's project, and the package's."""
    return sorted({path.stem for folder in (OWN, RECIPES) for path in folder.glob("*.yaml")})


def recipe_file(name: str) -> Path | None:
    """The file of the recipe of that name, None if there is none."""
    paths = (folder / f"{name}.yaml" for folder in (OWN, RECIPES))
    return next((path for path in paths if _is_file(path)), None)


def load_recipe(
    name: str | None, assignments: Iterable[str] = (), found: Mapping[str, Any] | None = None
) -> Recipe:
    """The resolved recipe of a verb.

    `name` is a recipe's name or the path of a YAML file; it may be left out where `params.yaml` of the working
    directory names just one. `found` holds dotted settings a search chose; `assignments` (`a.b=c`) win over it.
    Raises BadInput.
    """
    name = name or _from_params(Path("params.yaml"))
    path = recipe_file(name)
    if path is None:
        path = Path(name)
        if path.suffix != ".yaml" or not _is_file(path):
            near = difflib.get_close_matches(name, recipe_names(), n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(recipe_names())}"
            raise BadInput(f"recipe {name!r} is not known ({hint}); a path must end in .yaml and exist")
    assignments = tuple(assignments)
    recipe = read_recipe(path, assignments)
    asked = [parse_assignment(text)[0] for text in assignments]
    rest = {key: value for key, value in (found or {}).items() if not _within(key, asked)}
    return choose(recipe, rest, str(path)) if rest else recipe


def choose(recipe: Recipe, settings: Mapping[str, Any], where: str) -> Recipe:
    """`settings` over `recipe`, without what only the kinds that they replace own; `where` names them in errors.

    So a search may have `model.attention: [gaussian, full]` beside the recipe's read_size, which full has not.
    """
    tree = recipe.given()
    for section, config in (("model", recipe.model), ("train", recipe.train)):
        theirs = {key.removeprefix(f"{section}."): value for key, value in settings.items()}
        try:
            kinds = chosen(config.default_kinds(), {**tree[section], **theirs})
        except BadInput:
            continue  # what is wrong with it is said, with its key, when the recipe is built
        for setting in list(tree[section]):
            having = owners(setting, within(config.slots))
            if having and not any(kind in kinds for kind in having):
                del tree[section][setting]
    return build_recipe(with_settings(tree, settings), where)


def _within(key: str, asked: Iterable[str]) -> bool:
    """Whether one of `asked` sets `key`, alone or with its section."""
    return any(key == other or key.startswith(f"{other}.") for other in asked)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no file can have this name
        return False


def _from_params(path: Path) -> str:
    known = f"known: {', '.join(recipe_names())}"
    if not path.is_file():
        raise BadInput(f"name a recipe with --recipe ({known}); there is no params.yaml here")
    params = read_yaml(path)
    names = params.get("recipes") if isinstance(params, Mapping) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise BadInput(f"{path}: needs `recipes: [<name>, ...]` ({known})")
    if len(names) > 1:
        raise BadInput(f"name one recipe with --recipe: {path} has {', '.join(names)}")
    return names[0]
