"""The version is that of the git tag, in a source archive too, and what `seqgen --version` says."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

import seqgen
from tests.finished_run import outside

ROOT = Path(__file__).parents[1]
ASK = """
import sys
from setuptools.build_meta import prepare_metadata_for_build_wheel
print(prepare_metadata_for_build_wheel(sys.argv[1]))
"""


def git(directory: Path, *arguments: str) -> bytes:
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    return subprocess.run(["git", *who, *arguments], cwd=directory, check=True, capture_output=True).stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What a build reads, as a repository of its own with one commit."""
    pytest.importorskip("setuptools_scm")
    directory = tmp_path / "project"
    for package in ("seqgen", "data_prep", "pipelines"):
        (directory / package).mkdir(parents=True)
        (directory / package / "__init__.py").write_text("")
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitattributes", ".git_archival.txt"):
        shutil.copyfile(ROOT / name, directory / name)
    (directory / ".gitignore").write_text("*.egg-info\n*.dist-info\n")
    git(directory, "init", "--quiet")
    git(directory, "add", "--all")
    git(directory, "commit", "--quiet", "--message=one")
    return directory


def built(directory: Path) -> str:
    """The version that a build in `directory` has."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-c", ASK, output]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name = done.stdout.splitlines()[-1]
    return name.removeprefix("seqgen-").removesuffix(".dist-info")


def test_a_tag_is_the_version_and_what_follows_it_is_a_development_version(project: Path) -> None:
    git(project, "tag", "v3.1.4")
    assert built(project) == "3.1.4"
    git(project, "commit", "--quiet", "--allow-empty", "--message=two")
    assert built(project).startswith("3.1.5.dev1+g")


def test_a_source_archive_has_the_version_of_its_tag_and_a_copied_tree_the_fallback(project: Path) -> None:
    git(project, "tag", "v3.1.4")
    archive, copied = project.parent / "archive", project.parent / "copied"
    with tarfile.open(fileobj=io.BytesIO(git(project, "archive", "HEAD"))) as tar:
        tar.extractall(archive, filter="data")
    assert built(archive) == "3.1.4"
    shutil.copytree(project, copied, ignore=shutil.ignore_patterns(".git", ".git_archival.txt"))
    assert built(copied) == "0.1.0"


def test_seqgen_says_the_version_that_is_installed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli.main", "--version"],
        cwd=tmp_path,
        env=outside(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, f"seqgen {version('seqgen')}\n")
    assert seqgen.__version__ == version("seqgen")


def test_code_that_is_not_installed_has_no_version(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "seqgen", tmp_path / "seqgen", ignore=shutil.ignore_patterns("__pycache__"))
    script = "import seqgen; print(seqgen.__version__)"
    command = [sys.executable, "-S", "-E", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "unknown\n", done.stderr
