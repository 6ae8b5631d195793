"""The examples of docs/adding-*.md: their change applies to this tree, and what they show then happens."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.finished_run import outside
from tests.sets import write_digits

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


@pytest.fixture
def changed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the packages to which the diff of the page was applied."""
    copy = tmp_path / "copy"
    for package in ("seqgen", "data_prep", "pipelines"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    (diff,) = blocks(request.param, "diff")
    done = subprocess.run(["git", "apply", "-"], cwd=copy, input=diff, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lint = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", ROOT / "pyproject.toml", "."],
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert lint.returncode == 0, lint.stdout
    return copy


def run(changed: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=changed.parent,
        env=outside(PYTHONPATH=str(changed)),
        capture_output=True,
        text=True,
    )


def check_console(changed: Path, page: str) -> None:
    """Every command of the page prints the lines that are shown below it; "..." stands for anything."""
    (session,) = blocks(page, "console")
    for part in session.split("$ ")[1:]:
        command, *shown = part.splitlines()
        program, *arguments = shlex.split(command)
        assert program == "seqgen"
        done = run(changed, "-m", "pipelines.cli.main", *arguments)
        said = done.stdout + done.stderr
        for line in shown:
            assert re.search(re.escape(line).replace(r"\.\.\.", ".*"), said), (command, said)
        assert (done.returncode == 0) is not any(line.startswith("error:") for line in shown)


@pytest.mark.parametrize("changed", ["adding-a-slot"], indirect=True)
def test_a_slot(changed: Path) -> None:
    (script,) = blocks("adding-a-slot", "python")
    done = run(changed, "-c", script)
    assert done.returncode == 0, done.stderr
    refused = run(
        changed,
        "-m",
        "pipelines.show",
        "quickstart",
        "--set=model.step=layers",
        "--set=model.first_canvas=image",
    )
    assert refused.returncode == 2
    assert "first_canvas" in refused.stderr


@pytest.mark.parametrize("changed", ["adding-a-source"], indirect=True)
def test_a_source(changed: Path) -> None:
    check_console(changed, "adding-a-source")


@pytest.mark.parametrize("changed", ["adding-a-verb"], indirect=True)
def test_a_verb(changed: Path) -> None:
    write_digits(changed.parent / "artifacts" / "quickstart" / "shards")
    check_console(changed, "adding-a-verb")
    listed = run(changed, "-m", "pipelines.cli.main", "--help")
    assert re.search(r"concepts\s+List what the images", listed.stdout)
