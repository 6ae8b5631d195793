"""A search as Tune is told of it: the values that are drawn, and how many trials run at once."""

from __future__ import annotations

import pytest

from pipelines.search.driver import concurrent_trials, domains
from pipelines.search.search_space import checked_recipes, trial_recipe
from seqgen.core.errors import BadInput
from seqgen.core.machine import Resources
from seqgen.training.memory import bytes_needed
from tests.tiny_search import tiny


def test_every_drawn_value_makes_a_valid_recipe_within_its_range():
    space = {
        "model.steps": {"low": 2, "high": 4},
        "model.hidden": {"low": 8, "high": 64, "log": True},
        "train.learning_rate": {"low": 0.0001, "high": 0.1, "log": True},
        "train.clip": {"low": 1, "high": 5},
        "model.attention": ["gaussian", "full"],
    }
    recipe = tiny(space)
    drawn = [
        trial_recipe(recipe, {key: domain.sample() for key, domain in domains(recipe).items()})
        for _ in range(300)
    ]
    assert {trial.model.steps for trial in drawn} == {2, 3, 4}, "both ends of a whole-number range"
    assert all(8 <= trial.model.hidden <= 64 for trial in drawn)
    rates = sorted(trial.train.learning_rate for trial in drawn)
    assert 0.0001 <= rates[0] < rates[150] < 0.02 < rates[-1] <= 0.1, "a log range"
    assert any(trial.train.clip % 1 for trial in drawn), "a number, though its ends are whole"


@pytest.mark.parametrize(
    ("workers", "cpus", "at_once"), [(1, 2, 2), (2, 2, 1), (2, 5, 2), (4, 16, 4), (1, 1, 1)]
)
def test_as_many_trials_run_at_once_as_get_all_their_workers(workers: int, cpus: int, at_once: int):
    assert concurrent_trials(tiny(workers=workers), Resources(cpus, 0, 2**33)) == (at_once, "cpu")


def test_gpus_bound_the_trials_where_there_are_some():
    assert concurrent_trials(tiny(workers=2), Resources(16, 4, 2**33)) == (2, "cuda")
    assert concurrent_trials(tiny(workers=8), Resources(16, 4, 2**33)) == (2, "cpu")


def test_memory_bounds_the_trials_that_run_at_once():
    recipe = tiny({"model.steps": [1, 4]})
    largest = max(bytes_needed(trial) for trial in checked_recipes(recipe))
    assert concurrent_trials(recipe, Resources(16, 0, 3 * largest + 1)) == (3, "cpu")


def test_a_trial_larger_than_the_cluster_is_refused_with_the_numbers():
    with pytest.raises(BadInput, match=r"search\.workers=4: the Ray cluster has 3 CPUs"):
        concurrent_trials(tiny(workers=4), Resources(3, 0, 2**33, "the Ray cluster"))
    with pytest.raises(BadInput, match=r"model\.steps=900 .* GiB"):
        concurrent_trials(tiny({"model.steps": [1, 900]}), Resources(2, 0, 2**26))


def test_a_range_over_a_setting_that_only_a_kind_of_the_space_has():
    recipe = tiny({"model.attention": ["gaussian"], "model.read_size": {"low": 3, "high": 6}})
    drawn = {domains(recipe)["model.read_size"].sample() for _ in range(200)}
    assert drawn == {3, 4, 5, 6}
