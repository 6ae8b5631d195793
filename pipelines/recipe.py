"""Which run a verb works on: a named recipe or a file, single values set over it, and where its products lie."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import BadInput
from seqgen.config import Recipe, build_recipe, flatten, parse_assignment, with_settings
from seqgen.yaml import read_yaml

RECIPES = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """The names of the recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(
    name: str | None, assignments: Iterable[str] = (), found: Mapping[str, Any] | None = None
) -> Recipe:
    """The resolved recipe of a verb.

    `name` is a recipe's name or the path of a YAML file; without it `params.yaml` of the working directory says
    which, with its own `set`. `found` holds dotted settings a search chose, then `assignments` (`a.b=c`) win.
    Raises BadInput.
    """
    settings: dict[str, Any] = {}
    if name is None:
        name, settings = _from_params(Path("params.yaml"))
    path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
        if path.suffix != ".yaml" or not path.is_file():
            near = difflib.get_close_matches(name, recipe_names(), n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(recipe_names())}"
            raise BadInput(f"recipe {name!r} is not known ({hint}); a path must end in .yaml and exist")
    tree = read_yaml(path)
    if not isinstance(tree, Mapping):
        raise BadInput(f"{path}: a recipe is a mapping of sections")
    settings = {**(found or {}), **settings, **dict(parse_assignment(text) for text in assignments)}
    return build_recipe(with_settings({"name": path.stem, **tree}, settings), str(path))


def _from_params(path: Path) -> tuple[str, dict[str, Any]]:
    if not path.is_file():
        raise BadInput("no --recipe given and no params.yaml here; name one of: " + ", ".join(recipe_names()))
    params = read_yaml(path)
    if not isinstance(params, Mapping) or not isinstance(params.get("recipe"), str):
        raise BadInput(f"{path}: needs `recipe: <name>`, one of: {', '.join(recipe_names())}")
    unknown = sorted(set(params) - {"recipe", "set"})
    if unknown:
        raise BadInput(f"{path}: unknown key {unknown[0]}; it has only `recipe` and `set`")
    if not isinstance(params.get("set") or {}, Mapping):
        raise BadInput(f"{path}: `set` is a mapping of sections")
    return params["recipe"], flatten(params.get("set") or {})


@dataclass(frozen=True)
class Places:
    """Where the products of a recipe lie, relative to the project's directory (all absolute here)."""

    root: Path

    @property
    def raw(self) -> Path:
        """Verified raw files."""
        return self.root / "raw"

    @property
    def shards(self) -> Path:
        """The sharded set the model trains on: tars and manifest."""
        return self.root / "shards"

    @property
    def also(self) -> Path:
        """The other sharded sets of the recipe, one directory each, named by `set_name`."""
        return self.root / "also"

    @property
    def search(self) -> Path:
        """`best.json` (dotted settings) and `trials.csv`."""
        return self.root / "search"

    @property
    def train(self) -> Path:
        """`model/` (weights.safetensors, model.json), `history.csv`, `run.json`, `recipe.json`."""
        return self.root / "train"

    @property
    def evaluate(self) -> Path:
        """`metrics.json`, `evaluation.json`, `bounds.npy`, `kl_per_step.csv` and `pictures/`."""
        return self.root / "evaluate"

    @property
    def pictures(self) -> Path:
        """The sheets: samples, reconstructions, canvas and, for conditional models, exemplars."""
        return self.evaluate / "pictures"

    @property
    def register(self) -> Path:
        """`register.json`: version, alias, the reason."""
        return self.root / "register"

    @property
    def report(self) -> Path:
        """`report.html`."""
        return self.root / "report"


def places(recipe: Recipe) -> Places:
    """Where `recipe`'s products lie: `artifacts/<recipe>` (SEQGEN_ARTIFACTS moves `artifacts`)."""
    return Places(Path(os.environ.get("SEQGEN_ARTIFACTS", "artifacts")).resolve() / recipe.name)
