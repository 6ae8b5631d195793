"""An observation and the pixels it is given: a density of bits and bits of greys are refused before anything runs."""

from __future__ import annotations

import pytest

from pipelines.recipes import load_recipe
from seqgen.core.errors import BadInput


@pytest.mark.parametrize(
    ("recipe", "assignments", "problem"),
    [
        ("quickstart", ["data.binarise=grey"], "model.observation=conv is of binary pixels"),
        ("quickstart", ["model.observation=gaussian"], "model.observation=gaussian is of grey pixels"),
        ("one-shot", ["model.observation=logit-normal"], "data.binarise=static gives binary ones"),
        ("mnist-grey", ["data.binarise=threshold"], "model.observation=logit-normal is of grey pixels"),
        ("mnist-grey", ["model.observation=identity", "model.canvas_channels=1"], "of binary pixels"),
        ("mnist-grey", ["model.observation=gaussian", "model.logit_alpha=0.1"], "has no such setting"),
        ("mnist-grey", ["model.logit_alpha=0.5"], "model.logit_alpha=0.5"),
        ("mnist-grey", ["model.conditional=true", "train.new_classes=0.5"], "maps drawings, not grey images"),
        ("one-shot", ["data.binarise=grey", "model.observation=gaussian"], "omniglot is binary already"),
    ],
)
def test_pixels_and_observations_that_do_not_fit_are_refused(
    recipe: str, assignments: list[str], problem: str
):
    with pytest.raises(BadInput, match=problem):
        load_recipe(recipe, assignments)


def test_grey_pixels_and_a_density_fit_with_and_without_contexts():
    recipe = load_recipe("mnist-grey", ["model.observation=gaussian", "model.logit_alpha=null"])
    assert recipe.data.held_out_metric == "valid/grey/free_energy"
    assert load_recipe("mnist-grey", ["model.conditional=true"]).model.logit_alpha == 0.05


def test_settings_of_older_sets_have_no_folder_in_them():
    assert "folder" not in load_recipe("quickstart").data.model_dump(mode="json")
