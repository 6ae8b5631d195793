"""What a shell completes: verbs, their options, recipes; for bash by bash itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli.verbs import VERBS
from pipelines.recipes import recipe_names
from tests.finished_run import outside

SHELLS = ("bash", "zsh", "fish")
SEQGEN = '#!/bin/sh\nexec {python} -m pipelines.cli.main "$@"\n'
# What bash does when the last word of the line is completed.
TAB = """
eval "$(seqgen --show-completion)"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
$(complete -p seqgen | sed 's/.*-F \\([^ ]*\\) .*/\\1/') seqgen
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with the program `seqgen`."""
    program = tmp_path / "seqgen"
    program.write_text(SEQGEN.format(python=sys.executable))
    program.chmod(0o755)
    return tmp_path


def run(here: Path, *command: str, **more: str) -> str:
    environment = outside(PATH=f"{here}{os.pathsep}{os.environ['PATH']}", **more)
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def completed(here: Path, shell: str, *words: str) -> set[str]:
    """What the shell is told for the line of `words`, the last of which is begun."""
    if shell == "bash":
        return set(run(here, "bash", "-c", TAB, "bash", *words).split())
    line = " ".join(words)
    ask = {"_SEQGEN_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": line}
    told = run(here, "seqgen", _TYPER_COMPLETE_FISH_ACTION="get-args", **ask)
    if shell == "fish":  # a line each, with its help behind a tab
        return {each.split("\t")[0] for each in told.splitlines()}
    return set(re.findall(r'"([\w-]+)"', told))  # what is completed, then ":" and its help


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_shown(here: Path, shell: str) -> None:
    shown = run(here, "seqgen", _SEQGEN_COMPLETE=f"source_{shell}")
    assert f"complete_{shell}" in shown
    assert "seqgen" in shown
    if shell == "bash":  # the shell that asks is the one that is meant
        assert run(here, "bash", "-c", "seqgen --show-completion; true").strip() == shown.strip()


@pytest.mark.parametrize("shell", SHELLS)
def test_verbs_options_and_recipes_are_completed(here: Path, shell: str) -> None:
    verbs = {name for name in VERBS if name.startswith("tr")}
    assert verbs == {"train", "trace"}
    assert completed(here, shell, "seqgen", "tr") == verbs
    assert completed(here, shell, "seqgen", "train", "--re") == {"--recipe"}
    recipes = {name for name in recipe_names() if name.startswith("quick")}
    assert completed(here, shell, "seqgen", "train", "--recipe", "quick") == recipes
    assert completed(here, shell, "seqgen", "show", "quick") == recipes
