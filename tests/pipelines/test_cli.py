"""The `seqgen` command: what it lists, what it refuses, and that help costs nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from pipelines.cli.main import main, verbs
from pipelines.recipes import load_recipe, recipe_names
from seqgen.settings import build_recipe

HEAVY = {
    "boto3",
    "dvc",
    "matplotlib",
    "mlflow",
    "numpy",
    "pandas",
    "pyarrow",
    "ray",
    "rich",
    "torch",
    "webdataset",
}
# What the verbs use and a worker does not (ray.train itself brings pandas and pyarrow).
DRIVERS = HEAVY - {"numpy", "torch"} | {"jinja2", "optuna", "sqlalchemy", "typer"}


def code_of(arguments: list[str]) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return stop.value.code


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_verb_with_a_line(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert code_of(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    for verb, line in verbs().items():
        assert line, f"{verb} has no line of help"
        assert any(shown.split() == [verb, *line.split()] for shown in lines)


def test_the_verbs_are_those_of_the_line_in_its_order():
    found = list(verbs())
    assert found[:8] == ["fetch", "shard", "verify", "tune", "train", "evaluate", "register", "report"]
    assert {"cluster", "recipes", "retrain", "show", "trace"} <= set(found)
    assert not {"recipe", "verb", "tracking", "trials", "cli"} & set(found), "modules, not verbs"


def run_alone(script: str, *arguments: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_light_commands_import_nothing_heavy():
    script = (
        "import json, sys, pipelines.cli\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    try: pipelines.cli.main(arguments)\n"
        "    except SystemExit as stop: assert not stop.code, (arguments, stop.code)\n"
        f"    assert not (found := {HEAVY} & sys.modules.keys()), (arguments, found)"
    )
    light = [["--help"], ["recipes"], ["show", "quickstart"], *([verb, "--help"] for verb in verbs())]
    assert "Usage: seqgen train" in run_alone(script, json.dumps(light))


def test_a_training_process_imports_nothing_of_the_drivers():
    modules = "pipelines.cluster.worker, pipelines.search.trial, seqgen.data, seqgen.models, seqgen.training"
    script = f"import sys, {modules}\nprint(sorted({DRIVERS} & sys.modules.keys()))"
    assert run_alone(script) == "[]\n"


def test_every_verb_answers_help():
    for verb in verbs():
        assert code_of([verb, "--help"]) == 0, verb


def test_an_unknown_verb_is_bad_input_and_named_with_the_nearest(capsys: pytest.CaptureFixture[str]):
    assert code_of(["trian"]) == 2
    assert "'trian' (did you mean train?)" in capsys.readouterr().err


def test_an_unknown_recipe_is_bad_input(capsys: pytest.CaptureFixture[str]):
    assert code_of(["show", "quikstart"]) == 2
    assert "did you mean quickstart?" in capsys.readouterr().err


def test_recipes_are_listed_with_their_descriptions(capsys: pytest.CaptureFixture[str]):
    assert code_of(["recipes"]) == 0
    shown = capsys.readouterr().out
    for name in recipe_names():
        assert f"{name} " in shown
        assert load_recipe(name).description in shown


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_shown_in_full_and_what_is_shown_is_that_recipe(
    name: str, capsys: pytest.CaptureFixture[str]
):
    assert code_of(["show", name, "--set", "train.seed=7"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert build_recipe(shown, "shown") == load_recipe(name, ["train.seed=7"])
    assert shown["train"]["clip"] == load_recipe(name).train.clip, "defaults are filled in"
