"""The one list of source files: found from the imports, true to what is really imported, and what DVC watches."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.artifacts.stage_deps import stage_files, with_stage_deps
from pipelines.cli.verbs import STAGES, Verb
from pipelines.recipes import load_recipe
from pipelines.tracking.lineage import code_digest
from pipelines.tracking.source_files import LEARNING, PACKAGES, READ, ROOT, SHIPPED, source_files
from seqgen.core.errors import BadInput
from tests.finished_run import outside, tiny_recipe
from tests.sets import write_digits

TOY = {
    "seqgen/__init__.py": """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from seqgen.lazy import load
def __getattr__(name):
    from seqgen.lazy import load
    return load
""",
    "seqgen/lazy.py": "import lazy_only",
    "seqgen/entry.py": """
import typing, os.path
import numpy as np
from seqgen.a import something
from . import beside
if typing.TYPE_CHECKING:
    from seqgen import types_only
else:
    import seqgen.otherwise
def later():
    from seqgen.inner import deep
    class Within:
        import torch.nn
""",
    "seqgen/asks.py": "from seqgen import load",
    "seqgen/a.py": "from seqgen.entry import later",  # a circle
    "seqgen/beside.py": "",
    "seqgen/otherwise.py": "",
    "seqgen/types_only.py": "",
    "seqgen/unused.py": "",
    "seqgen/inner/__init__.py": "from seqgen.inner.sibling import x",
    "seqgen/inner/deep.py": "",
    "seqgen/inner/sibling.py": "",
}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    for name, source in TOY.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    return tmp_path


def test_every_import_is_followed_and_no_other(toy: Path) -> None:
    found = source_files("seqgen.entry", root=toy)
    expected = (
        "__init__",
        "a",
        "beside",
        "entry",
        "inner/__init__",
        "inner/deep",
        "inner/sibling",
        "otherwise",
    )
    assert list(found.files) == [f"seqgen/{name}.py" for name in expected]
    assert found.files["seqgen/a.py"] == toy / "seqgen/a.py"
    assert found.foreign == {"numpy", "torch.nn"}


def test_what_a_package_hands_out_is_needed_by_who_asks_for_it(toy: Path) -> None:
    found = source_files("seqgen.asks", root=toy)
    assert list(found.files) == ["seqgen/__init__.py", "seqgen/asks.py", "seqgen/lazy.py"]
    assert found.foreign == {"lazy_only"}


def test_a_package_can_be_left_out_and_what_is_absent_is_named(toy: Path) -> None:
    names = source_files("seqgen.entry", without=("seqgen.inner",), root=toy).files
    assert not [name for name in names if "inner" in name]
    with pytest.raises(BadInput, match=r"seqgen\.nowhere: no such module"):
        source_files("seqgen.nowhere", root=toy)
    with pytest.raises(BadInput, match="nowhere_at_all: no such package"):
        source_files("nowhere_at_all.x", root=toy)


def test_no_file_that_is_no_python_is_forgotten() -> None:
    """One that a module reads must be named in READ; recipes are parameters of their stages."""
    read = {path for module, patterns in READ.items() for path in _beside(module, patterns)}
    ignored = {".py", ".pyc", ".yaml"}
    there = {
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in ignored
    }
    assert there <= read
    assert {".cpp", ".h", ".html"} <= {path.suffix for path in read}


def _beside(module: str, patterns: tuple[str, ...]) -> list[Path]:
    path = ROOT.joinpath(*module.split("."))
    folder = path if path.is_dir() else path.parent
    return [found for pattern in patterns for found in folder.glob(pattern)]


IMPORTED = """
import sys
from pathlib import Path
{code}
for name, module in sorted(sys.modules.items()):
    if name.partition(".")[0] in {packages} and getattr(module, "__file__", None):
        print("file", module.__file__)
"""
TRAIN = """
from pipelines.recipes import load_recipe
before = {*sys.modules}
from seqgen.training import run
import data_prep.shard_set
run(load_recipe("tiny.yaml"), Path("shards"))
for name in [name for name in before if name.startswith("pipelines")]:
    del sys.modules[name]
"""


def imported(code: str, directory: Path) -> set[str]:
    """The names of our files that a process running `code` in `directory` has imported at its end."""
    source = IMPORTED.format(code=code, packages=PACKAGES)
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=directory, env=outside(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    paths = [line.removeprefix("file ") for line in done.stdout.splitlines() if line.startswith("file ")]
    return {Path(path).relative_to(ROOT).as_posix() for path in paths}


@pytest.mark.parametrize("attention", ["full", "spatial-transformer"])
def test_what_a_training_imports_is_in_the_list(tmp_path: Path, attention: str) -> None:
    tree = yaml.safe_load(tiny_recipe(tmp_path).read_text())
    tree["model"]["attention"] = attention
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    write_digits(tmp_path / "shards")
    found = imported(TRAIN, tmp_path)
    assert "seqgen/training/loop.py" in found
    assert found <= set(source_files(*LEARNING).files)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_what_a_verb_imports_at_once_is_in_its_list(stage: Verb, tmp_path: Path) -> None:
    assert imported(f"import {stage.module}", tmp_path) <= set(source_files(stage.module).files)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_the_stages_of_dvc_depend_on_exactly_the_list(stage: Verb) -> None:
    """If not: `python -m pipelines.artifacts.stage_deps` writes the list into dvc.yaml."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert list(stages) == [each.name for each in STAGES]
    watched: set[str] = set()
    for dep in stages[stage.name]["deps"]:
        if dep.partition("/")[0] in PACKAGES:
            path = ROOT / dep
            assert path.exists(), dep
            watched |= {each.relative_to(ROOT).as_posix() for each in _files(path)}
    assert watched == stage_files(stage)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [each for each in path.rglob("*") if each.is_file() and "__pycache__" not in each.parts]


def test_training_depends_on_all_that_the_code_digest_covers() -> None:
    """What a retraining calls a change of the code is one that DVC trains for."""
    (train,) = (stage for stage in STAGES if stage.name == "train")
    (register,) = (stage for stage in STAGES if stage.name == "register")
    learning = set(source_files(*LEARNING).files)
    assert learning <= stage_files(train)
    assert set(source_files(*SHIPPED).files) <= stage_files(register)
    native = {path.relative_to(ROOT).as_posix() for path in (ROOT / "seqgen/native").glob("*.[ch]*")}
    assert native
    assert native <= learning
    assert "seqgen/drawing/pictures.py" not in stage_files(train)


def test_writing_the_list_changes_nothing_else() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    assert with_stage_deps(text) == text
    own = text.replace("      - data_prep/__init__.py\n", "      - my_plugin\n", 1)
    assert with_stage_deps(own).replace("      - my_plugin\n", "", 1) == text


PLUGIN = {
    "star_plugin/__init__.py": "from star_plugin.kinds import Star",
    "star_plugin/kinds.py": """
from seqgen.models.canvases import AdditiveCanvas
from seqgen.settings import register
from . import helpers

@register("canvas", "star")
class Star(AdditiveCanvas):
    pass
""",
    "star_plugin/helpers.py": "",
    "star_plugin/unused.py": "",
}


def test_the_code_digest_covers_a_plugins_files(tmp_path: Path) -> None:
    for name, source in PLUGIN.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    tree = yaml.safe_load(tiny_recipe(tmp_path).read_text())
    tree["model"] |= {"canvas": "star", "plugins": ["star_plugin"]}
    (tmp_path / "star.yaml").write_text(yaml.safe_dump(tree))
    digests = [_digest(tmp_path, "star.yaml")]
    (tmp_path / "star_plugin/unused.py").write_text("x = 1\n")
    assert _digest(tmp_path, "star.yaml") == digests[0]
    (tmp_path / "star_plugin/helpers.py").write_text("x = 1\n")
    assert _digest(tmp_path, "star.yaml") not in (digests[0], _digest(tmp_path, "tiny.yaml"))
    assert _digest(tmp_path, "tiny.yaml") == code_digest(load_recipe(str(tmp_path / "tiny.yaml")))
    assert _digest(tmp_path, "tiny.yaml") == code_digest()


def _digest(directory: Path, recipe: str) -> str:
    """In a process of its own, which has not imported the plugin as it was before."""
    code = "import sys; from pipelines.recipes import load_recipe; from pipelines.tracking import lineage\n"
    code += "print(lineage.code_digest(load_recipe(sys.argv[1])))"
    environment = outside()
    environment["PYTHONPATH"] += f":{directory}"
    done = subprocess.run(
        [sys.executable, "-c", code, recipe], cwd=directory, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
