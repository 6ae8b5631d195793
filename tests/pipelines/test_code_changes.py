"""What a retraining calls a change of the code is one that DVC trains for: with the project's own dvc.yaml."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipelines.tracking.source_files import PACKAGES, ROOT
from tests.finished_run import outside, tiny_recipe

pytestmark = pytest.mark.slow


class Project:
    """A copy of the project with one tiny recipe, as a repository of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for package in PACKAGES:
            shutil.copytree(ROOT / package, directory / package, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
            shutil.copyfile(ROOT / name, directory / name)
        (directory / "params.yaml").write_text("recipes: [tiny]\n")
        recipe = tiny_recipe(directory / "pipelines/recipes", batch=100, workers=1)
        tree = yaml.safe_load(recipe.read_text())
        tree |= {"search": None, "evaluate": {"images": 20, "importance_images": 10, "importance_samples": 2}}
        recipe.write_text(yaml.safe_dump(tree))
        self.run("git", "init", "-q")
        self.dvc("init", "-q")
        self.dvc("config", "core.analytics", "false")
        self.digest = self.code_digest()
        self.run("git", "add", ".")
        self.run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "one")

    def run(self, *command: str) -> str:
        """What the command says on standard output."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = outside(PYTHONPATH=str(self.directory), PATH=path)
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def dvc(self, *arguments: str) -> str:
        """What `dvc` says."""
        return self.run(sys.executable, "-m", "dvc", *arguments)

    def retrain(self) -> str:
        """What `seqgen retrain` says."""
        return self.run(sys.executable, "-m", "pipelines.retrain")

    def stages_to_run(self) -> set[str]:
        """The stages that `dvc repro` would run."""
        return set(re.findall(r"Running stage '(\w+)@tiny'", self.dvc("repro", "--dry", "report@tiny")))

    def code_digest(self) -> str:
        """The digest of the copy's code, computed by that code."""
        code = (
            "from pipelines.recipes import load_recipe; from pipelines.tracking.lineage import code_digest\n"
        )
        return self.run(sys.executable, "-c", f"{code}print(code_digest(load_recipe('tiny')))")

    def append(self, name: str, line: str) -> None:
        """Add a line to a file."""
        with (self.directory / name).open("a") as stream:
            stream.write(f"{line}\n")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The project with version 1 of `tiny` registered: every stage has run."""
    project = Project(tmp_path_factory.mktemp("project"))
    assert "promoted tiny version 1" in project.retrain()
    assert not project.stages_to_run()
    yield project
    shutil.rmtree(project.directory)


@pytest.mark.parametrize(
    ("name", "line", "covered", "stages"),
    [
        ("seqgen/native/vectors.h", "// changed", True, {"tune", "train", "evaluate", "register"}),
        ("seqgen/training/loop.py", "# changed", True, {"tune", "train"}),
        ("data_prep/shrink.py", "# changed", True, {"shard", "train"}),
        ("seqgen/drawing/galleries.py", "# changed", False, {"evaluate"}),
        ("seqgen/serving/pyfunc.py", "# changed", False, {"register"}),
        ("pipelines/artifacts/templates/report.html", "<!-- changed -->", False, {"report"}),
        ("pipelines/retrain.py", "# changed", False, set()),
    ],
)
def test_a_change_that_the_code_digest_covers_is_one_that_dvc_trains_for(
    project: Project, name: str, line: str, covered: bool, stages: set[str]
) -> None:
    path = project.directory / name
    before = path.read_bytes()
    project.append(name, line)
    try:
        digest, to_run = project.code_digest(), project.stages_to_run()
    finally:
        path.write_bytes(before)
    assert (digest != project.digest) == covered
    assert stages <= to_run
    assert ("train" in to_run) == covered


def test_a_change_of_the_code_gives_one_new_version_and_then_there_is_nothing_to_do(project: Project) -> None:
    assert "nothing to do: champion version 1" in project.retrain()
    project.append("seqgen/native/vectors.h", "// changed")
    said = project.retrain()
    assert "since champion version 1 was made, code changed" in said
    assert "tiny version 2" in said
    assert "no new version" not in said
    assert "nothing to do: " in project.retrain()
