"""The verbs: one list, what `seqgen` makes of it, what it refuses, and that help costs nothing."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.cli.main import main
from pipelines.cli.verbs import STAGES, VERBS, Verb
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


PIPELINES = Path(__file__).parents[3] / "pipelines"


def code_of(arguments: list[str]) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return stop.value.code


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_verb_with_its_line(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert code_of(arguments) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for verb in VERBS.values():
        assert [verb.name, *verb.help.split()] in lines


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_a_verb_is_a_module_that_says_what_the_list_says(verb: Verb):
    module = importlib.import_module(verb.module)
    assert (module.__doc__ or "").partition("\n")[0] == verb.help
    assert verb.command() is getattr(module, verb.name.replace("-", "_"))


def test_the_list_has_every_module_that_runs_as_a_verb():
    runs = [path for path in PIPELINES.rglob("*.py") if "\n    run(" in path.read_text()]
    modules = {".".join(path.relative_to(PIPELINES.parent).with_suffix("").parts) for path in runs}
    # A package that is a verb runs by its __main__.
    assert {name.removesuffix(".__main__") for name in modules} == {
        verb.module.removesuffix(".__main__") for verb in VERBS.values()
    }


def test_the_stages_are_those_of_dvc_in_its_order():
    stages = yaml.safe_load((PIPELINES.parent / "dvc.yaml").read_text())["stages"]
    assert list(stages) == [stage.name for stage in STAGES]
    for stage in STAGES:
        assert stages[stage.name]["cmd"].startswith(f"python -m {stage.module} ")


def run_alone(script: str, *arguments: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_light_commands_import_nothing_heavy():
    script = (
        "import json, sys\n"
        "from pipelines.cli.main import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    try: main(arguments)\n"
        "    except SystemExit as stop: assert not stop.code, (arguments, stop.code)\n"
        f"    assert not (found := {HEAVY} & sys.modules.keys()), (arguments, found)"
    )
    light = [["recipes"], ["show", "quickstart"], *([verb, "--help"] for verb in VERBS)]
    assert "Usage: seqgen train" in run_alone(script, json.dumps(light))


def test_help_imports_no_verb_and_a_verbs_help_only_that_one():
    script = (
        "import sys\n"
        "from pipelines.cli.main import main\n"
        "from pipelines.cli.verbs import VERBS\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "print('imported', sorted({verb.module for verb in VERBS.values()} & sys.modules.keys()))"
    )
    assert run_alone(script, "--help").splitlines()[-1] == "imported []"
    assert run_alone(script, "train", "--help").splitlines()[-1] == "imported ['pipelines.train']"


def test_a_training_process_imports_nothing_of_the_drivers():
    modules = "pipelines.cluster.worker, pipelines.search.trial, seqgen.data, seqgen.models, seqgen.training"
    script = f"import sys, {modules}\nprint(sorted({DRIVERS} & sys.modules.keys()))"
    assert run_alone(script) == "[]\n"


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_every_verb_answers_help_under_both_names(verb: Verb, capsys: pytest.CaptureFixture[str]):
    assert code_of([verb.name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: seqgen {verb.name} " in shown
    module = verb.module.removesuffix(".__main__")
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, shown)


def test_an_unknown_verb_is_bad_input_and_named_with_the_nearest(capsys: pytest.CaptureFixture[str]):
    assert code_of(["trian"]) == 2
    assert "No such command 'trian'. Did you mean 'train'" in capsys.readouterr().err


def test_a_verbs_error_has_its_exit_code_under_both_names(capfd: pytest.CaptureFixture[str]):
    arguments = ["show", "quickstart", "--set", "train.epochs=0"]
    assert code_of(arguments) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: ")
    assert "train.epochs=0" in said
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.show", *arguments[1:]], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (2, said)


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
