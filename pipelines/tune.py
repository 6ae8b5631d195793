"""Search the settings of search.space with Ray Tune and ASHA; the best ones feed the train stage."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import BadInput, OperationalError, SeqgenError, StoppedEarly
from data_prep.files import canonical_digest, write_bytes, write_json
from data_prep.manifest import Manifest, read_manifest
from pipelines.recipe import load_recipe, places
from pipelines.space import check_space, describe, is_grid, trial_count, tune_space
from pipelines.verb import RecipeOption, SetOption, run
from seqgen.config import Recipe

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from pipelines.studylog import StudyLog


def tune(recipe: RecipeOption = None, settings: SetOption = None) -> None:
    """Search the settings listed in search.space. An interrupted search goes on when the command is run again."""
    search(load_recipe(recipe, settings or ()))


def search(recipe: Recipe) -> dict[str, Any]:
    """Run the recipe's search, or go on with it, and write `search/best.json` and `search/trials.csv`.

    Returns best.json: {"settings", "objective" (nats), "metric", "trials", "failed"}; only {"settings": {}} where
    the recipe has no search. Raises BadInput before anything starts, StoppedEarly (run it again to go on),
    OperationalError if no trial gave a bound.
    """
    target = places(recipe).search
    if recipe.search is None:
        print(f"recipe {recipe.name} has no search section: its own settings stand")
        return _write(target, [], [], {"settings": {}})
    check_space(recipe)
    manifest = read_manifest(places(recipe).shards)
    ...
