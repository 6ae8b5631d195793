"""What a shell completes, asked of the shell itself: verbs, their options, recipes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli.verbs import VERBS
from pipelines.recipes import recipe_names
from tests.finished_run import outside

SEQGEN = '#!/bin/sh\nexec {python} -m pipelines.cli.main "$@"\n'
# What each does, without a terminal, when the last word of its arguments is completed; one completion a line.
TAB = {
    "bash": r"""
eval "$(seqgen --show-completion)"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
$(complete -p seqgen | sed 's/.*-F \([^ ]*\) .*/\1/') seqgen
printf '%s\n' "${COMPREPLY[@]}"
""",
    "zsh": r"""
autoload -Uz compinit && compinit -u -D
eval "$(seqgen --show-completion)"
_arguments() { print -r -- "$1" | grep -oE '"[[:alnum:]-]+"' | tr -d '"'; }
words=("$@") CURRENT=$#
$_comps[seqgen]
""",
    "fish": r"""
seqgen --show-completion | source
complete -C "$argv" | cut -f 1
""",
}


@pytest.fixture(params=TAB)
def shell(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"there is no {request.param}")
    return request.param


def completed(here: Path, shell: str, *words: str) -> set[str]:
    """What the shell offers for the line of `words`, the last of which is begun."""
    program = here / "seqgen"
    program.write_text(SEQGEN.format(python=sys.executable))
    program.chmod(0o755)
    named = ["bash"] if shell == "bash" else [] if shell == "fish" else ["zsh"]  # what the script has as $0
    command = [shell, *(["-f"] if shell == "zsh" else []), "-c", TAB[shell], *named, *words]
    environment = outside(PATH=f"{here}{os.pathsep}{os.environ['PATH']}", HOME=str(here))
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_verbs_are_completed(tmp_path: Path, shell: str) -> None:
    wanted = {name for name in VERBS if name.startswith("tr")}
    assert {"train", "trace"} <= wanted
    assert completed(tmp_path, shell, "seqgen", "tr") == wanted


def test_options_are_completed(tmp_path: Path, shell: str) -> None:
    assert completed(tmp_path, shell, "seqgen", "train", "--re") == {"--recipe"}


@pytest.mark.parametrize("before", [["train", "--recipe"], ["show"]], ids=" ".join)
def test_recipes_are_completed(tmp_path: Path, shell: str, before: list[str]) -> None:
    wanted = {name for name in recipe_names() if name.startswith("quick")}
    assert completed(tmp_path, shell, "seqgen", *before, "quick") == wanted


@pytest.mark.parametrize("name", TAB)
def test_the_script_of_a_shell_can_be_had_in_another(tmp_path: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from pipelines.cli.main import main; main([])"],
        cwd=tmp_path,
        env=outside(_SEQGEN_COMPLETE=f"source_{name}"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(rf"_SEQGEN_COMPLETE=complete_{name}\b", done.stdout)
