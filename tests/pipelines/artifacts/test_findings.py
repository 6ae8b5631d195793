"""What the report says: commands that lead back to the same settings, bounds by their names."""

from __future__ import annotations

import shlex

from pipelines.artifacts.findings import commands
from pipelines.artifacts.measurements import bound_rows
from pipelines.recipes import load_recipe


def test_the_commands_lead_back_to_the_same_settings():
    found = {"model.steps": 4}
    changed = ["train.epochs=7", "evaluate.images=50", "train.learning_rate=5e-4"]
    recipe = load_recipe("quickstart", changed, found=found)
    written = commands(recipe, found)
    assert [line.split()[2] for line in written][:2] == ["pipelines.fetch", "pipelines.shard"]
    words = shlex.split(next(line for line in written if ".train " in line))
    settings = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    assert len(settings) == 3
    assert load_recipe("quickstart", settings, found=found) == recipe
    assert not any("--set" in line for line in commands(load_recipe("quickstart"), {}))


def test_bounds_are_named_and_those_not_made_left_out():
    rows = bound_rows({"bound": 90.0, "bound_se": 0.5, "kl": 20.0, "log_likelihood": -70.0, "images": 10})
    assert [row["name"] for row in rows] == ["F, free energy", "log-likelihood", "KL"]
    assert [row["se"] for row in rows] == [0.5, None, None]
    more = {"bound": 90.0, "iwae_50": 88.0, "iwae_50_se": 0.6, "iwae_50_images": 200}
    assert bound_rows(more)[-1]["name"] == "IWAE-50"
    assert "200 random images" in bound_rows(more)[-1]["meaning"]
