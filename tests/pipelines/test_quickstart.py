"""A wheel alone: installed in a fresh environment, `seqgen quickstart` makes a project whose line runs there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import yaml

from pipelines.artifacts.stage_deps import project_files
from pipelines.quickstart import quickstart
from pipelines.recipes import RECIPES, load_recipe, recipe_names
from seqgen.core.errors import BadInput
from tests.finished_run import outside

ROOT = Path(__file__).parents[2]
SMALL = {  # over the recipe `quickstart`, so that its line takes two minutes, not nine
    "search": {"trials": 1, "epochs": 1, "minutes": 3, "train_images": 128, "space": {"model.steps": [2]}},
    "train": {"epochs": 1, "batch": 64, "learning_rate": 0.003, "workers": 1},
    "evaluate": {"importance_samples": 2, "importance_images": 8},
}


@pytest.fixture(scope="module")
def bin_(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel of this tree; what it needs are the packages here.

    They are on the path by a .pth file, behind the environment's own, and .pth files among them do not count: so this
    checkout, if it is installed there, is not seen.
    """
    pytest.importorskip("setuptools_scm")
    place = tmp_path_factory.mktemp("wheel")
    kept = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True)
    if kept.returncode:
        pytest.skip("not a git checkout")
    for name in kept.stdout.decode().splitlines():
        if name.partition("/")[0] in ("seqgen", "data_prep", "pipelines") or "/" not in name:
            (place / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place / "source" / name)
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "build", "--wheel", "--no-build-isolation", "-q", "source"], cwd=place, check=True)
    (wheel,) = (place / "source" / "dist").glob("*.whl")
    venv.create(place / "venv", symlinks=True)
    python = place / "venv/bin/python"
    packages = next((place / "venv/lib").glob("python*/site-packages"))
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    install = [*uv, "pip", "install", f"--python={python}", "--no-deps", "--offline", "-q", wheel]
    subprocess.run(install, check=True)
    dvc = place / "venv/bin/dvc"
    dvc.write_text(f"#!{python}\nimport sys\nfrom dvc.cli import main\nsys.exit(main(sys.argv[1:]))\n")
    dvc.chmod(0o755)
    return python.parent


def run(bin_: Path, directory: Path, *command: str) -> str:
    environment = outside(PATH=f"{bin_}{os.pathsep}{os.environ['PATH']}", DVC_NO_ANALYTICS="1")
    del environment["PYTHONPATH"]
    done = subprocess.run(
        [bin_ / command[0], *command[1:]], cwd=directory, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def project(bin_: Path, tmp_path: Path) -> Path:
    """A project of the recipe `quickstart`, made small, in a repository of its own."""
    directory = tmp_path / "project"
    git(tmp_path, "init", "--quiet", "project")
    said = run(bin_, directory, "seqgen", "quickstart").splitlines()
    assert said[-1] == "  dvc repro"
    recipe = directory / "recipes/quickstart.yaml"
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | SMALL))
    (directory / "params.yaml").write_text("recipes: [quickstart]\n")
    return directory


def commit(project: Path) -> None:
    git(project, "add", "--all")
    assert "mlflow.db" not in git(project, "ls-files")
    git(project, "commit", "--quiet", "--message=one")


@pytest.mark.slow
def test_the_wheel_needs_nothing_of_this_checkout(bin_: Path, project: Path) -> None:
    where = (
        "import data_prep, pipelines, seqgen; print(data_prep.__file__, pipelines.__file__, seqgen.__file__)"
    )
    for path in run(bin_, project, "python", "-c", where).split():
        assert Path(path).is_relative_to(bin_.parent)
    (installed,) = bin_.parent.glob("lib/python*/site-packages/seqgen-*.dist-info")
    said = run(bin_, project, "seqgen", "--version").strip()
    assert installed.name == f"{said.replace(' ', '-')}.dist-info"
    run(bin_, project, "dvc", "repro", "shard@quickstart")
    manifest = project / "artifacts/quickstart/shards/manifest.json"
    before = manifest.read_bytes()
    assert (project / "artifacts/quickstart/data-card.md").is_file()
    commit(project)

    # What docs/operations.md shows: keep it elsewhere, bring it back.
    run(bin_, project, "dvc", "remote", "add", "-d", "storage", str(project.parent / "remote"))
    run(bin_, project, "dvc", "push")
    for made in ("artifacts", ".dvc/cache"):
        shutil.rmtree(project / made)
    run(bin_, project, "dvc", "pull", "shard@quickstart", "fetch@quickstart")
    assert manifest.read_bytes() == before
    assert "up to date" in run(bin_, project, "dvc", "repro", "shard@quickstart")


@pytest.mark.slow
def test_the_line_runs_in_a_project(bin_: Path, project: Path) -> None:
    run(bin_, project, "dvc", "repro")
    assert (project / "artifacts/quickstart/report/report.html").is_file()
    assert "up to date" in run(bin_, project, "dvc", "repro")
    commit(project)
    recipe = project / "recipes/quickstart.yaml"
    recipe.write_text(recipe.read_text().replace("evaluate:\n", "evaluate:\n  seed: 1\n"))
    changed = run(bin_, project, "dvc", "status")
    assert "evaluate@quickstart" in changed
    assert "train@quickstart" not in changed
    run(bin_, project, "dvc", "repro", "evaluate@quickstart")
    compared = run(bin_, project, "dvc", "metrics", "diff")
    assert re.search(
        r"quickstart/evaluate/metrics.json +test.dynamic.bound +[\d.]+ +[\d.]+ +-?[\d.]+", compared
    )


def git(directory: Path, *arguments: str) -> str:
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    done = subprocess.run(
        ["git", *who, *arguments], cwd=directory, check=True, capture_output=True, text=True
    )
    return done.stdout


def test_what_a_project_begins_with_is_ours() -> None:
    """If not: `python -m pipelines.artifacts.stage_deps` writes it."""
    for path, content in project_files().items():
        assert path.read_bytes() == content, path
        stages = yaml.safe_load(content)["stages"] if path.name == "dvc.yaml" else {}
        for stage in stages.values():
            assert all(dep.startswith("artifacts/") for dep in stage.get("deps", ()))


def test_a_project_begins_where_nothing_is_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    quickstart(Path("new one"))
    assert "cd 'new one'" in capsys.readouterr().out
    assert not any(path.name == "quickstart" for path in Path().iterdir())
    made = {path.relative_to(tmp_path / "new one").as_posix() for path in (tmp_path / "new one").rglob("*")}
    assert {"dvc.yaml", "params.yaml", ".gitignore", ".rayignore", ".dvc/config"} <= made
    assert {f"recipes/{path.name}" for path in RECIPES.glob("*.yaml")} <= made
    (tmp_path / "params.yaml").write_text("mine")
    with pytest.raises(BadInput, match=r"has params.yaml already; name an empty directory"):
        quickstart(Path())
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["new one", "params.yaml"]


def test_a_projects_own_recipe_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    quickstart(Path())
    own = yaml.safe_load(Path("recipes/quickstart.yaml").read_text())
    own["train"]["epochs"] = 77
    Path("recipes/mine.yaml").write_text(yaml.safe_dump(own))
    Path("recipes/quickstart.yaml").write_text(yaml.safe_dump(own))
    assert "mine" in recipe_names()
    assert load_recipe("mine").name == "mine"
    assert load_recipe("quickstart").train.epochs == 77
    monkeypatch.chdir("/")
    assert "mine" not in recipe_names()
    assert load_recipe("quickstart").train.epochs == 10
