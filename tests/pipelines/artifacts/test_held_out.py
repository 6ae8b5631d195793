"""What is measured: a simple random sample of the split, whose contexts are of the whole split."""

from __future__ import annotations

import pytest

from pipelines.artifacts.held_out import evaluated_images, whole_split
from pipelines.artifacts.trained_model import load_trained_model
from seqgen.evaluation.bounds import subset
from tests.finished_run import finished_run, tiny_recipe, work_in


@pytest.fixture
def trained(tmp_path, monkeypatch):
    work_in(tmp_path, monkeypatch)
    recipe = tiny_recipe(tmp_path, conditional=True)
    finished_run(recipe)
    return lambda *settings: load_trained_model(str(recipe), settings)


def test_fewer_images_are_a_random_part_of_the_split_with_the_contexts_they_have_there(trained):
    whole = whole_split(trained(), "test", 2)
    few = evaluated_images(trained("evaluate.images=5", "evaluate.seed=0"), 2)
    chosen = subset(len(whole), 5, 0, "evaluated images")
    assert few.x.equal(whole.x[chosen])
    assert few.context.equal(whole.context[chosen])
    assert few.groups.equal(whole.groups[chosen])
    assert few.alphabets.equal(whole.alphabets[chosen])


@pytest.mark.parametrize("settings", [[], ["evaluate.images=16"], ["evaluate.images=1000"]])
def test_all_images_where_no_fewer_are_asked_for(trained, settings: list[str]):
    assert evaluated_images(trained(*settings)).x.equal(whole_split(trained(), "test").x)
