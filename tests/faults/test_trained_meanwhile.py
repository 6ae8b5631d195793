"""A model that is trained anew while the one before it is measured or registered: no number gets the other's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.artifacts.trained_model import load_trained_model
from pipelines.evaluate import evaluate_trained
from pipelines.registry import versions
from pipelines.tracking import runs
from seqgen.core.errors import BadInput, OperationalError
from seqgen.drawing import galleries
from seqgen.models import build, save_model
from tests.finished_run import WORSE, finished_run, tiny_recipe
from tests.registries import registered


def test_a_measurement_has_the_name_of_the_weights_it_was_made_on(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(here)
    trained = finished_run(recipe)
    draw = galleries.draw_sheets

    def while_we_measure(*arguments: Any) -> Any:
        finished_run(recipe, mean=WORSE)
        return draw(*arguments)

    monkeypatch.setattr(galleries, "draw_sheets", while_we_measure)
    evaluate_trained(trained)
    now = load_trained_model(str(recipe))
    measured = json.loads((trained.places.evaluate / "evaluation.json").read_text())
    assert measured["weights"] == trained.weights != now.weights
    with pytest.raises(BadInput, match="measured on other weights"):
        registered(now)


def test_what_was_trained_anew_before_it_was_loaded_is_not_measured(here: Path) -> None:
    recipe = tiny_recipe(here)
    trained = finished_run(recipe)
    finished_run(recipe, mean=WORSE)
    with pytest.raises(OperationalError, match="trained anew meanwhile; evaluate and register again"):
        evaluate_trained(trained)


def test_files_of_two_trainings_are_no_version(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = finished_run(tiny_recipe(here))
    save = versions.save_package

    def while_we_package(*arguments: Any) -> None:
        save_model(build(trained.recipe.model, 28, 28, WORSE), trained.model)
        save(*arguments)

    monkeypatch.setattr(versions, "save_package", while_we_package)
    with pytest.raises(OperationalError, match="trained anew meanwhile"):
        registered(trained)
    assert not runs.connect().search_model_versions("name='tiny'")
