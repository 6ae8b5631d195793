"""The `seqgen` command: what it lists, what it refuses, and that help costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from pipelines.cli import main, verbs
from pipelines.support.recipe import load_recipe, recipe_names
from seqgen.config import build_recipe

HEAVY = ("torch", "ray", "mlflow", "dvc", "matplotlib", "pandas", "pyarrow", "boto3")


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


@pytest.mark.parametrize("arguments", [["--help"], ["show", "quickstart"], ["recipes"], ["tune", "--help"]])
def test_light_commands_import_nothing_heavy(arguments: list[str]):
    script = (
        "import sys, pipelines.cli\n"
        "try: pipelines.cli.main(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        f"print('HEAVY', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"


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
