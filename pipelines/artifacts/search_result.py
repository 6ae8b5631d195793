"""What the tune stage leaves, artifacts/<recipe>/search: the best settings and a table of the trials."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.artifacts.places import places
from pipelines.recipes import load_recipe
from seqgen.core.errors import BadInput
from seqgen.core.files import write_bytes, write_json
from seqgen.settings import Recipe

# trial, the settings searched, epochs, bound (nats), seconds, status; and its checkpoint, which is not in the table
TrialRow = dict[str, Any]


def write_search_result(recipe: Recipe, best: Mapping[str, Any], trials: Sequence[TrialRow] = ()) -> None:
    """Write trials.csv, then best.json, whose presence says that both are there."""
    target = places(recipe).search
    (target / "best.json").unlink(missing_ok=True)
    text = io.StringIO()
    searched: Iterable[str] = recipe.search.space if recipe.search else ()
    columns = ["trial", *searched, "epochs", "bound", "seconds", "status"]
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(trials)
    write_bytes(target / "trials.csv", text.getvalue().encode())
    write_json(target / "best.json", dict(best))


def load_searched(name: str | None, assignments: Sequence[str] = ()) -> Recipe:
    """`load_recipe`, and over it what the recipe's search found, if it has run; `assignments` win over that, too.

    Raises BadInput if what it found are not the settings that the recipe's space varies.
    """
    recipe = load_recipe(name, assignments)
    path, remedy = (
        places(recipe).search / "best.json",
        f"run `seqgen tune --recipe {name or recipe.name}`",
    )
    if recipe.search is None or not path.is_file():
        return recipe
    try:
        found = dict(json.loads(path.read_text())["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: not the result of a search ({error}); {remedy}") from error
    if found.keys() != recipe.search.space.keys():
        raise BadInput(
            f"{path}: the search was made for another space ({', '.join(found) or 'none'}); {remedy}"
        )
    print(f"found by the search ({path}): " + "  ".join(f"{key}={value}" for key, value in found.items()))
    return load_recipe(name, assignments, found=found)
