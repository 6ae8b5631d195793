"""Settings from text: single values over a recipe, and every problem of a whole recipe told at once."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from seqgen.core.errors import BadInput
from seqgen.core.yaml import parse_yaml, read_yaml
from seqgen.settings.recipe import Recipe


def parse_assignment(text: str) -> tuple[str, Any]:
    """Split `a.b=value`; the value is YAML. Raises BadInput."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BadInput(f"--set {text}: write it as section.key=value, for example train.epochs=3")
    return key, parse_yaml(value, f"--set {key}")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def with_settings(tree: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `tree` in which each dotted key of `settings` has its value. Raises BadInput."""
    result: dict[str, Any] = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in tree.items()
    }
    for dotted, value in settings.items():
        node = result
        *path, leaf = dotted.split(".")
        for part in path:
            child = node.get(part)
            if child is not None and not isinstance(child, Mapping):
                raise BadInput(f"{dotted}: {part} is a single value, not a section")
            node[part] = dict(child or {})
            node = node[part]
        node[leaf] = value
    return result


def build_recipe(tree: Any, where: str) -> Recipe:
    """Check a settings tree as a whole and return the frozen recipe.

    Raises BadInput that lists every problem at once, with the nearest known key for an unknown one.
    """
    if not isinstance(tree, Mapping):
        raise BadInput(f"{where}: a recipe is a mapping of sections, not {type(tree).__name__}")
    try:
        # JSON mode: strict about types, yet a list is what JSON and YAML have for a tuple.
        return Recipe.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise BadInput(f"{where}: " + "; ".join(lines)) from None


def read_recipe(path: Path, assignments: Iterable[str] = ()) -> Recipe:
    """The recipe of a YAML file, with `assignments` (`a.b=c`) over it; its name is the file's unless it says another.

    Raises BadInput, with every problem.
    """
    tree = read_yaml(path)
    if not isinstance(tree, Mapping):
        raise BadInput(f"{path}: a recipe is a mapping of sections")
    asked = dict(parse_assignment(text) for text in assignments)
    return build_recipe(with_settings({"name": path.stem, **tree}, asked), str(path))


def _explain(problem: Any) -> str:
    location = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    match problem["type"]:
        case "unknown_key":
            return f"unknown key {location} ({message})"
        case "extra_forbidden":
            known = _known_keys(problem["loc"][:-1])
            near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            return f"unknown key {location} ({hint})"
        case "missing":
            return f"{location} is missing"
        case "cross_check" | "value_error":
            return f"{location}: {message}" if location else message
        case "setting" if isinstance(problem["input"], Mapping):
            return f"{location}.{message}"
    return f"{location}={problem['input']!r}: {message}"


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    schema: Any = Recipe
    for part in location:
        if isinstance(part, int):
            continue
        field = next(
            (f for n, f in schema.model_fields.items() if part in (n, f.alias)),
            None,
        )
        kinds = [
            getattr(field, "annotation", None),
            *getattr(getattr(field, "annotation", None), "__args__", ()),
        ]
        schema = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), Recipe)
    return [field.alias or name for name, field in schema.model_fields.items()]
