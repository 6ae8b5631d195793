"""A registered model where there is nothing but its own pinned requirements: no checkout, no seqgen installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement

from pipelines.registry.package import model_code, requirements
from pipelines.tracking import runs
from pipelines.tracking.source_files import ROOT
from seqgen.core.errors import BadInput
from tests.finished_run import finished_run, outside, tiny_recipe, work_in

PREDICT = """
import importlib.metadata, json, sys
import mlflow, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
means = model.predict(np.array([3], np.int64), params=dict(seed=1))
import seqgen
module = seqgen.load(sys.argv[1]).module
installed = sorted(found.name for found in importlib.metadata.distributions())
ours = [name for name in sys.modules if name.partition(".")[0] in ("seqgen", "data_prep", "pipelines")]
print(json.dumps(dict(means=means.tolist(), seqgen=seqgen.__file__, installed=installed, ours=ours,
    canvas=type(module.step.canvas).__name__)))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    work_in(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The interpreter of an environment made of the requirements that a model is registered with, by an installer.

    PyTorch's build is the one here: an index may have another, of gigabytes. The versions that the requirements
    leave open are ours, which the installer has kept since it installed them here; it may ask an index for others.
    """
    directory = tmp_path_factory.mktemp("fresh")
    listed = directory / "requirements.txt"
    listed.write_text("\n".join(requirements(model_code(()).foreign)))
    venv.create(directory / "venv", symlinks=True)
    python = directory / "venv/bin/python"
    _copy_torch(next((directory / "venv/lib").glob("python*/site-packages")))
    command = [sys.executable, "-m", "uv", "pip", "install", f"--python={python}", f"--requirement={listed}"]
    command += [f"--constraint={ROOT / 'constraints.txt'}"]
    done = subprocess.run([*command, "--offline"], capture_output=True, text=True)
    if done.returncode:
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    yield python
    shutil.rmtree(directory)


def _copy_torch(packages: Path) -> None:
    """PyTorch and what it needs, as hard links where that is possible."""
    waiting, seen = ["torch"], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        found = distribution(name)
        for file in found.files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                (packages / file).parent.mkdir(parents=True, exist_ok=True)
                _link(Path(str(found.locate_file(file))), packages / file)
        needed = map(Requirement, found.requires or ())
        waiting += [each.name for each in needed if not each.marker or each.marker.evaluate({"extra": ""})]


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def predict(python: str | Path, uri: str = "models:/tiny@champion") -> dict[str, Any]:
    """What PREDICT says in a process in / that finds no code of ours but the model's."""
    environment = outside(
        MLFLOW_TRACKING_URI=runs.tracking_uri(), MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false"
    )
    del environment["PYTHONPATH"]
    done = subprocess.run(
        [python, "-c", PREDICT, uri], cwd="/", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def register(recipe: Path) -> Path:
    """Register a finished run of `recipe`, and the directory of the MLflow model."""
    from pipelines.register import register_trained

    assert register_trained(finished_run(recipe))["promoted"]
    (description,) = Path("mlartifacts").rglob("MLmodel")
    return description.parent


@pytest.mark.slow
def test_a_model_predicts_in_an_environment_of_its_own_requirements(here: Path, environment: Path) -> None:
    model = register(tiny_recipe(here))
    listed = (environment.parents[2] / "requirements.txt").read_text()
    assert sorted((model / "requirements.txt").read_text().split()) == sorted(listed.split())
    said = predict(environment)
    assert "seqgen" not in said["installed"]
    assert "mlartifacts" in said["seqgen"]
    assert not [name for name in said["ours"] if not name.startswith("seqgen")]
    np.testing.assert_allclose(said["means"], predict(sys.executable)["means"], rtol=1e-5)


PLUGIN = """
from {name} import helpers
from seqgen.models.canvases import AdditiveCanvas
from seqgen.settings import register

@register("canvas", "{name}")
class MyCanvas(AdditiveCanvas):
    assert helpers.HERE
"""


def write_plugin(directory: Path, name: str) -> None:
    """A package that registers a canvas of its own name in its module `canvas`."""
    (directory / name).mkdir()
    (directory / name / "__init__.py").write_text("")
    (directory / name / "canvas.py").write_text(PLUGIN.format(name=name))
    (directory / name / "helpers.py").write_text("import PIL.Image\nHERE = True\n")


def mark_as_installed(directory: Path, name: str, *lines: str) -> Path:
    """What an installer notes of version 1.2 of it, with `lines` of metadata; the folder of that."""
    information = directory / f"{name}-1.2.dist-info"
    information.mkdir()
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.2", *lines]
    (information / "METADATA").write_text("\n".join(metadata) + "\n")
    (information / "RECORD").write_text(f"{name}/__init__.py,,\n{name}/canvas.py,,\n")
    return information


@pytest.mark.slow
def test_a_model_with_a_plugin_of_plain_files_brings_them(
    here: Path, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plugin(here, "plain_plugin")
    monkeypatch.syspath_prepend(str(here))
    tree = yaml.safe_load(tiny_recipe(here).read_text())
    tree["model"] |= {"canvas": "plain_plugin", "plugins": ["plain_plugin.canvas"]}
    (here / "tiny.yaml").write_text(yaml.safe_dump(tree))
    model = register(here / "tiny.yaml")
    code = {path.relative_to(model / "code").as_posix() for path in (model / "code").rglob("*.py")}
    assert {f"plain_plugin/{name}.py" for name in ("__init__", "canvas", "helpers")} <= code
    assert any(line.startswith("pillow==") for line in (model / "requirements.txt").read_text().splitlines())
    assert predict(environment)["canvas"] == "MyCanvas"


@pytest.mark.parametrize(
    ("name", "lines", "url", "pinned"),
    [
        ("from_index", ["Requires-Dist: numpy>=2"], None, True),
        ("needs_seqgen", ["Requires-Dist: seqgen (>=0.1)"], None, False),  # which no index has
        ("from_folder", [], '{"dir_info": {"editable": true}}', False),
    ],
)
def test_a_plugin_that_an_index_has_is_pinned_and_another_is_brought(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    lines: list[str],
    url: str | None,
    pinned: bool,
) -> None:
    write_plugin(tmp_path, name)
    information = mark_as_installed(tmp_path, name, *lines)
    if url is not None:
        (information / "direct_url.json").write_text(url)
    monkeypatch.syspath_prepend(str(tmp_path))
    code = model_code([f"{name}.canvas"])
    assert (f"{name}==1.2" in requirements(code.foreign)) == pinned
    assert (f"{name}/helpers.py" in code.files) != pinned


def test_a_plugin_that_is_not_here_is_named() -> None:
    with pytest.raises(BadInput, match="no_such_plugin: no such package"):
        model_code(["no_such_plugin.x"])


def test_what_ships_needs_no_more_than_loading_does() -> None:
    code = model_code(())
    rooms = {name.split("/")[1] for name in code.files if name.startswith("seqgen/")}
    assert {"models", "ops", "native", "settings", "serving", "core"} <= rooms
    assert not rooms & {"training", "drawing", "evaluation", "objectives"}
    assert {"seqgen/native/vectors.h"} <= code.files.keys()
    names = {pin.partition("==")[0] for pin in requirements(code.foreign)}
    assert {"mlflow", "numpy", "torch", "pydantic", "safetensors"} <= names
    assert not names & {"ray", "dvc", "boto3", "seqgen", "mlflow-skinny"}
    assert not [pin for pin in requirements(code.foreign) if "+" in pin]
