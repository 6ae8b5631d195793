"""The page of results: every number and picture of the recipes' tables, and nothing that was not measured."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pipelines.artifacts.history import FILE_NAME, write_history
from pipelines.artifacts.one_shot import entry, read_tables, write_table
from pipelines.evaluate.figure10 import figure10
from pipelines.evaluate.results import results
from seqgen.core.errors import BadInput
from tests.finished_run import finished_run, tiny_recipe, work_in


@pytest.fixture
def project(tmp_path, monkeypatch):
    work_in(tmp_path, monkeypatch)
    return tmp_path


def measured(project, name: str, nll: float):
    recipe = tiny_recipe(project, name=name, conditional=True)
    trained = replace(finished_run(recipe), asked=("--recipe", name))
    write_history(trained.places.train / FILE_NAME, [{"epoch": 1, "step": 4, "seconds": 90.0}])
    entries = {
        "nll_1_context": entry(nll, 0.5, 200, unit="nats", se_by_alphabet=1.5, k=1000),
        "foreign_context_cost": entry(20.0, 0.1, 100, unit="nats"),
    }
    write_table(trained, "contexts", entries, {}, "NLL")
    return recipe, trained


def test_numbers_have_their_errors_command_and_the_recipe_in_their_name(project):
    main, trained = measured(project, "one-shot", 80.0)
    classified = {"lake_accuracy": entry(70.0, 1.0, 400, unit="%")}
    write_table(trained, "classify", classified, {"published": [{"model": "people", "accuracy": 95.5}]}, "")
    judged = {"recognised_weak": entry(60.0, 1.0, 400, unit="%")}
    write_table(trained, "recognise", judged, {"needs": "python -m pipelines.evaluate.recogniser"}, "")
    other, _ = measured(project, "one-shot-weak", 90.0)
    results([str(main), str(other)], project / "docs" / "results", "two cores")
    content = json.loads((project / "docs" / "results" / "one_shot.json").read_text())
    one = content["nll_1_context"]
    assert (one["value"], one["se"], one["se_by_alphabet"], one["images"], one["k"]) == (
        80,
        0.5,
        1.5,
        200,
        1000,
    )
    assert one["command"] == "python -m pipelines.evaluate.contexts --recipe one-shot"
    assert content["nll_1_context_weak"]["value"] == 90
    assert content["foreign_context_cost_28"]["value"] == 20
    assert content["budgets"]["one-shot"]["images"] == 4 * 16
    page = (project / "docs" / "results.md").read_text()
    assert "| 1 | - | 80.0 ± 0.5 (± 1.5) | 1,000, 200 | 86.5 | 82.8 |" in page
    assert "after an hour of two cores: **met**" in page
    assert "| `one-shot-weak` | 64 | 1 | 1.5 |" in page
    assert "81.3 %: **not measured**" in page
    assert page.index("evaluate.recogniser\n") < page.index("evaluate.recognise ")


def test_a_model_of_other_settings_than_the_recipe_has_now_is_refused(project):
    recipe, _ = measured(project, "one-shot", 80.0)
    changed = recipe.read_text().replace("hidden: ", "hidden: 1")
    assert changed != recipe.read_text()
    recipe.write_text(changed)
    with pytest.raises(
        BadInput, match=r"trained with other settings than .* has now; train and measure again"
    ):
        results([str(recipe)], project / "docs" / "results", "")


def test_numbers_of_valid_and_two_of_one_name_are_refused(project):
    recipe, trained = measured(project, "one-shot", 80.0)
    write_table(trained, "gap", {"nll_1_context": entry(70.0, 1.0, 4, unit="nats")}, {}, "")
    with pytest.raises(BadInput, match=r"nll_1_context: both of .*evaluate.contexts.* and of .*evaluate.gap"):
        results([str(recipe)], project / "docs" / "results", "")
    table = trained.places.one_shot / "contexts.json"
    table.write_text(json.dumps(json.loads(table.read_text()) | {"split": "valid"}))
    with pytest.raises(BadInput, match=r"measured on valid: .*evaluate.contexts.*; measure on test"):
        results([str(recipe)], project / "docs" / "results", "")


def test_pictures_come_along_and_what_was_not_drawn_is_not_shown(project):
    recipe, _ = measured(project, "one-shot", 90.0)
    figure10(str(recipe), None)
    results([str(recipe)], project / "docs" / "results", "")
    page = (project / "docs" / "results.md").read_text()
    assert (project / "docs" / "results" / "one-shot-figure10.png").is_file()
    assert "(results/one-shot-figure10.png)" in page
    assert "figure9.png" not in page
    assert "after an hour of two cores: **not met**" in page


def test_tables_of_other_weights_are_not_gathered(project):
    recipe, trained = measured(project, "one-shot", 80.0)
    table = trained.places.one_shot / "contexts.json"
    table.write_text(json.dumps(json.loads(table.read_text()) | {"weights": "other"}))
    assert read_tables(trained) == []
    results([str(recipe)], project / "docs" / "results", "")
    assert "nll_1_context" not in json.loads((project / "docs" / "results" / "one_shot.json").read_text())


def test_without_any_table_there_is_nothing_to_gather(project):
    with pytest.raises(BadInput, match=r"no recipe has tables.*seqgen contexts"):
        results(None, project / "docs" / "results", "")
