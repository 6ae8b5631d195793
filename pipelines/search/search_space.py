"""A search space: which settings it may vary, every value checked, and the recipe of one trial."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipelines.recipes import choose
from seqgen.core.errors import BadInput
from seqgen.settings import Recipe, SearchConfig

_MOST_CHECKED = 10_000
_FIXED = {
    "train.epochs": "search.epochs says it for all trials",
    "train.workers": "search.workers says it for all trials",
    "train.fewest_workers": "search.workers says it for all trials",
    "train.evaluate_every": "a trial is measured after every epoch",
    "train.checkpoint_every": "it does not change what is learned",
    "train.max_failures": "it does not change what is learned",
}


def trial_recipe(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe a trial trains: `settings` over `recipe`, with the search's epochs and workers.

    Raises BadInput, naming the settings, if they do not make a valid recipe.
    """
    assert recipe.search is not None
    fixed = {
        "train.epochs": recipe.search.epochs,
        "train.workers": recipe.search.workers,
        "train.fewest_workers": None,
        "train.evaluate_every": 1,
        "search": None,
    }
    return choose(recipe, {**fixed, **settings}, f"search.space with {describe(settings)}")


def describe(settings: Mapping[str, Any]) -> str:
    """Settings on one line."""
    return " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in settings.items()
    )


def checked_recipes(recipe: Recipe) -> list[Recipe]:
    """The recipes of every combination of listed values and range ends (of the first 10,000).

    Raises BadInput that names the key and the value.
    """
    assert recipe.search is not None
    space = recipe.search.space
    if not space:
        raise BadInput(
            "search.space is empty: list a setting, for example `model.steps: [4, 8]`, or leave search out"
        )
    for key, values in space.items():
        if not key.startswith(("model.", "train.")):
            raise BadInput(f"search.space {key}: only settings of model and train can be searched")
        if key in _FIXED:
            raise BadInput(f"search.space {key}: cannot be searched; {_FIXED[key]}")
        _check_values(key, values)
    return [trial_recipe(recipe, settings) for settings in itertools.islice(_corners(space), _MOST_CHECKED)]


def _check_values(key: str, values: list[Any] | Mapping[Any, Any]) -> None:
    where = f"search.space {key}"
    if isinstance(values, list):
        if not values:
            raise BadInput(f"{where}: no values; list at least one")
        repeated = [value for position, value in enumerate(values) if value in values[:position]]
        if repeated:
            raise BadInput(f"{where}: {repeated[0]!r} stands twice")
        return
    for end in ("low", "high"):
        value = values.get(end)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadInput(
                f"{where}: {end}={value!r}; a range is {{low: number, high: number, log: true or false}}"
            )
    if values["low"] >= values["high"]:
        raise BadInput(f"{where}: low={values['low']} is not below high={values['high']}")
    if not isinstance(values.get("log", False), bool):
        raise BadInput(f"{where}: log={values['log']!r}; write true or false")
    if values.get("log") and values["low"] <= 0:
        raise BadInput(f"{where}: low={values['low']}; a log range starts above 0")


def _corners(space: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    values: Iterable[Any] = (v if isinstance(v, list) else [v["low"], v["high"]] for v in space.values())
    for combination in itertools.product(*values):
        yield dict(zip(space, combination, strict=True))


def is_grid(search: SearchConfig) -> bool:
    """Whether the whole grid is run: lists only, and no more points than trials."""
    return (
        all(isinstance(values, list) for values in search.space.values())
        and grid_points(search) <= search.trials
    )


def grid_points(search: SearchConfig) -> int:
    """The number of points of the listed values; a range counts as one."""
    return math.prod(len(values) if isinstance(values, list) else 1 for values in search.space.values())


def trial_count(search: SearchConfig) -> int:
    """How many trials the search makes."""
    return grid_points(search) if is_grid(search) else search.trials
