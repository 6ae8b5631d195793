"""The page of the members: what their runs left, and nothing else."""

from __future__ import annotations

import json

import pytest
import yaml

from pipelines.artifacts.history import FILE_NAME, write_history
from pipelines.artifacts.one_shot import entry, write_table
from pipelines.evaluate import evaluate_trained
from pipelines.evaluate import family as verb
from pipelines.tracking.publish import publish_metrics
from seqgen.core.errors import BadInput
from seqgen.core.files import write_bytes
from tests.finished_run import finished_run, tiny_recipe, work_in


@pytest.fixture
def project(tmp_path, monkeypatch):
    work_in(tmp_path, monkeypatch)
    recipes = {}
    for member, mean in (("vae", None), ("draw", 0.5)):
        recipe = tiny_recipe(tmp_path, name=member)
        trained = finished_run(recipe, mean=mean)
        write_history(trained.places.train / FILE_NAME, [{"epoch": 1, "step": 4, "seconds": 90.0}])
        evaluate_trained(trained)
        recipes[member] = str(recipe)
    monkeypatch.setattr(verb, "MEMBERS", recipes)
    return tmp_path


def test_each_member_has_a_row_with_its_bound_budget_and_command(project):
    trained = verb._read("vae")
    entries = {
        "bits_back_over_bound": entry(100.3, None, 500, unit="%"),
        "gzip": entry(0.3, None, 500, unit="bits/pixel"),
    }
    write_table(trained, "compress", entries, {}, "")
    write_bytes(trained.places.one_shot / "impute.png", b"a picture")
    of_pixels = {"impute_left_gain": entry(12.5, 0.5, 100, unit="nats")}
    write_table(trained, "impute", of_pixels, {"picture": "impute.png"}, "Missing pixels")
    verb.family(to=project / "docs" / "results", machine="two cores")
    content = json.loads((project / "docs" / "results" / "family.json").read_text())
    vae, draw = content["members"]
    assert (vae["member"], draw["member"]) == ("vae", "draw")
    assert vae["bound"] < draw["bound"]
    measured = json.loads((trained.places.evaluate / "metrics.json").read_text())
    assert vae["bound"] == pytest.approx(measured["test"]["dynamic"]["bound"])
    assert (vae["images"], vae["seconds"]) == (4 * 16, 90)
    assert 0 < vae["pixel_means"] < 28 * 28
    assert content["bits_back"]["rate_over_bound"] == pytest.approx(1.003)
    assert content["air_count_accuracy"] is None
    assert content["air_count_accuracy_by_seed"] == []
    page = (project / "docs" / "family.md").read_text()
    assert f"| {vae['bound']:.1f} ± {vae['se']:.1f} |" in page
    assert "1.0030 times the bits of the bound" in page
    assert "| `impute_left_gain` | 12.5 ± 0.5 | nats | 100 |" in page
    assert "![Missing pixels](results/family-vae-impute.png)" in page
    assert (project / "docs" / "results" / "family-vae-impute.png").read_bytes() == b"a picture"
    assert (project / "docs" / "results" / "family.png").is_file()


def test_an_unknown_member_and_nothing_trained_are_refused(project, monkeypatch):
    with pytest.raises(BadInput, match="no such member; known: vae, draw"):
        verb.family(["vea"])
    monkeypatch.setattr(verb, "MEMBERS", {"sbn": "sbn-mnist"})
    with pytest.raises(BadInput, match="no member was trained"):
        verb.family()


def test_the_count_of_every_seed_is_that_of_its_newest_run(project, monkeypatch):
    """Not of runs with other settings than the recipe's."""
    path = project / "air.yaml"
    monkeypatch.setattr(verb, "MEMBERS", {"air": str(path)})
    expected, tree = {}, yaml.safe_load(tiny_recipe(project, name="air").read_text())
    for number, (seed, epochs) in enumerate([(1, 1), (2, 1), (1, 1), (2, 3), (0, 1)]):
        tree["train"] |= {"seed": seed, "epochs": epochs}
        path.write_text(yaml.safe_dump(tree))
        trained = finished_run(path)
        metric = verb.count_metric(trained.recipe)
        publish_metrics(trained, {metric: 90.0 + number, f"{metric}_se": 0.5}, trained.places.one_shot)
        if epochs == 1:
            expected[seed] = 90.0 + number
    write_history(trained.places.train / FILE_NAME, [{"epoch": 1, "step": 4, "seconds": 90.0}])
    evaluate_trained(trained)
    verb.family(to=project / "docs" / "results")
    content = json.loads((project / "docs" / "results" / "family.json").read_text())
    found = content["air_count_accuracy_by_seed"]
    assert [(one["seed"], one["accuracy"], one["se"]) for one in found] == [
        (seed, expected[seed], 0.5) for seed in range(3)
    ]
    assert "| 1 | 92.00 ± 0.50 |" in (project / "docs" / "family.md").read_text()
