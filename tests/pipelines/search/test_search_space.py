"""A search space: what it may hold, every value checked, and the recipe of one trial."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.recipes import choose
from pipelines.search.search_space import checked_recipes, describe, is_grid, trial_count, trial_recipe
from seqgen.core.errors import BadInput
from tests.tiny_search import tiny


@pytest.mark.parametrize(
    ("space", "named"),
    [
        ({"model.steps": [4, 0]}, ["model.steps=0"]),
        ({"model.hiden": [4]}, ["model.hiden", "did you mean hidden?"]),
        ({"model.attention": ["gaussian", "gausian"]}, ["model.attention=", "gausian"]),
        ({"model.steps": [4, "8"]}, ["model.steps=", "'8'"]),
        ({"model.steps": [4, True]}, ["model.steps=True"]),
        ({"model.steps": {"low": 2, "high": 5000}}, ["model.steps=5000"]),
        ({"model.steps": {"low": 2.5, "high": 8}}, ["model.steps=2.5"]),
        ({"model.attention": {"low": 1, "high": 2}}, ["model.attention=1"]),
        (
            {"train.learning_rate": {"low": 0.1, "high": 0.01}},
            ["train.learning_rate", "low=0.1", "0.01"],
        ),
        ({"train.learning_rate": {"low": 0, "high": 0.1, "log": True}}, ["train.learning_rate", "low=0"]),
        ({"train.learning_rate": {"high": 0.1}}, ["train.learning_rate", "low=None"]),
        ({"train.learning_rate": {"low": 0.01, "high": 0.1, "log": "yes"}}, ["log='yes'"]),
        ({"model.canvas_channels": [1, 4]}, ["model.canvas_channels=4", "observation=identity"]),
        ({"train.batch": [16, 0]}, ["train.batch=0"]),
        ({"train.epochs": [3, 4]}, ["train.epochs", "search.epochs"]),
        ({"train.workers": [1, 2]}, ["train.workers", "search.workers"]),
        ({"train.fewest_workers": [1, 2]}, ["train.fewest_workers", "search.workers"]),
        ({"data.size": [28, 52]}, ["data.size", "only settings of model and train"]),
        ({"model.steps.deep": [1]}, ["model.steps.deep"]),
        ({"model.steps": []}, ["model.steps", "no values"]),
        ({"model.steps": [2, 2]}, ["model.steps", "2 stands twice"]),
        ({}, ["search.space is empty"]),
    ],
)
def test_a_wrong_space_is_refused_by_key_and_value(space: dict[str, Any], named: list[str]):
    with pytest.raises(BadInput) as refused:
        checked_recipes(tiny(space))
    for part in named:
        assert part in str(refused.value)


def test_values_that_are_valid_only_together_are_accepted():
    space = {"model.canvas_channels": [2, 4], "model.observation": ["conv"]}
    assert [recipe.model.canvas_channels for recipe in checked_recipes(tiny(space))] == [2, 4]


def test_a_trial_trains_the_recipe_with_its_settings_and_the_search_s_epochs():
    recipe = tiny(workers=2)
    trial = trial_recipe(recipe, {"model.steps": 1, "train.learning_rate": 0.5})
    assert (trial.model.steps, trial.train.learning_rate) == (1, 0.5)
    assert (trial.train.epochs, trial.train.workers, trial.search) == (3, 2, None)
    assert trial.model.hidden == recipe.model.hidden


def test_a_trial_of_a_training_that_may_go_on_with_fewer_workers_waits_for_its_own():
    recipe = choose(tiny(workers=1), {"train.workers": 2, "train.fewest_workers": 2}, "a test")
    trials = checked_recipes(recipe)
    assert {(trial.train.workers, trial.train.fewest_workers) for trial in trials} == {(1, None)}


def test_a_grid_is_run_whole_only_if_the_trials_suffice():
    assert is_grid(tiny().search)
    assert trial_count(tiny(trials=9).search) == 4, "no more trials than points"
    assert not is_grid(tiny(trials=3).search)
    assert trial_count(tiny(trials=3).search) == 3
    ranged = tiny({"model.steps": [1, 2], "train.learning_rate": {"low": 0.001, "high": 0.1}})
    assert not is_grid(ranged.search)
    assert trial_count(ranged.search) == 4


def test_what_a_replaced_kind_owned_is_left_out_of_a_trial_and_what_the_space_sets_is_not():
    windows = tiny({"model.attention": ["gaussian", "full"]})
    first, second = checked_recipes(windows)
    assert (first.model.read_size, second.model.attention) == (3, "full")
    assert "read_size" not in second.model.model_dump()
    with pytest.raises(BadInput, match=r"model\.read_size=3: attention=full has no such setting"):
        checked_recipes(tiny({"model.attention": ["gaussian", "full"], "model.read_size": [3, 4]}))


def test_a_space_of_members_gives_each_its_own_settings():
    steps = ["sequential", "layers", "convolutional"]
    recipes = checked_recipes(tiny({"model.step": steps, "train.learning_rate": [0.001, 0.003]}))
    assert [recipe.model.step for recipe in recipes] == [step for step in steps for _ in range(2)]
    sequential, layers, convolutional = (recipe.model for recipe in recipes[::2])
    assert (sequential.read_size, sequential.attention) == (3, "gaussian")
    assert not hasattr(layers, "attention")
    assert layers.encoder_hidden == 200
    assert convolutional.scale == 4
    assert {recipe.model.latents for recipe in recipes} == {4}
    with pytest.raises(BadInput, match=r"model\.step=layers.*transition=lstm: a layer is passed once"):
        checked_recipes(tiny({"model.step": steps, "model.transition": ["lstm", "residual"]}))


def test_settings_on_one_line():
    assert describe({"model.steps": 4, "train.learning_rate": 0.00123456}) == (
        "model.steps=4 train.learning_rate=0.001235"
    )
