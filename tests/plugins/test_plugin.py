"""A package outside the tree: a canvas and an attention of one's own, from the recipe to the registry and back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from tests.finished_run import outside, tiny_recipe
from tests.sets import write_digits

CANVAS = '''
"""A canvas that fades."""

from pydantic import Field
from seqgen.models.contracts import Canvas, register
from seqgen.settings import KindSettings


@register("canvas", "fading")
class FadingCanvas(Canvas):
    """c_t = fade c_{t-1} + f_w(h_t)."""

    class Settings(KindSettings):
        fade: float = Field(default=0.9, gt=0, le=1, description="what is left of the canvas after a step")

    def __init__(self, settings, sizes):
        super().__init__(settings, sizes)
        self.fade = settings.fade

    def forward(self, canvas, written):
        return self.fade * canvas + written
'''
ATTENTION = '''
"""An attention that reads a coarse image and writes a coarse sprite over the whole canvas."""
from torch import nn
from torch.nn import functional
from seqgen.models.contracts import Attention, Reader, Writer, register
from seqgen.settings import KindSettings

class CoarseReader(Reader):
    def __init__(self, channels, cells):
        super().__init__()
        self.cells, self.features = cells, channels * cells**2
    def prepare(self, image):
        return functional.adaptive_avg_pool2d(image, self.cells).flatten(1)
    def forward(self, prepared, h):
        return prepared

class CoarseWriter(Writer):
    def __init__(self, sizes, cells):
        super().__init__()
        self.shape, self.size = (sizes.canvas_channels, cells, cells), (sizes.height, sizes.width)
        self.sprite = nn.Linear(sizes.hidden, sizes.canvas_channels * cells**2)
    def forward(self, h, v=None):
        return functional.interpolate(self.sprite(h).unflatten(1, self.shape), self.size)

@register("attention", "coarse")
class Coarse(Attention):
    class Settings(KindSettings):
        cells: int = 4
    def reader(self, channels):
        return CoarseReader(channels, self.settings.cells)
    def writer(self):
        return CoarseWriter(self.sizes, self.settings.cells)
'''
LOAD = "import seqgen; model = seqgen.load('models:/tiny@champion'); print(type(model.module.step.canvas).__name__)"
SERVE = """
import mlflow, numpy as np
model = mlflow.pyfunc.load_model('models:/tiny@champion')
print(model.predict(np.array([3], np.int64)).shape)
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A working directory with the package `acme_kinds`, a recipe that uses it, and shards."""
    package = tmp_path / "elsewhere" / "acme_kinds"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from acme_kinds import attention, canvas\n")
    for name, text in (("canvas", CANVAS), ("attention", ATTENTION)):
        assert len([line for line in text.splitlines() if line.strip()]) < 30
        (package / f"{name}.py").write_text(text.lstrip())
    work = tmp_path / "work"
    work.mkdir()
    path = tiny_recipe(work, workers=1)
    tree = yaml.safe_load(path.read_text())
    tree["model"] |= {"plugins": ["acme_kinds"], "attention": "coarse", "cells": 7, "canvas": "fading"}
    tree["search"] = {"trials": 2, "epochs": 1, "minutes": 5, "space": {"model.fade": [0.5, 0.9]}}
    path.write_text(yaml.safe_dump(tree))
    write_digits(work / "artifacts" / "tiny" / "shards")
    return work


def run(site: Path, *command: str, plugin: bool = True) -> subprocess.CompletedProcess[str]:
    environment = outside()
    if plugin:
        environment["PYTHONPATH"] += f"{os.pathsep}{site.parent / 'elsewhere'}"
    return subprocess.run(
        [sys.executable, *command], cwd=site, env=environment, capture_output=True, text=True, timeout=900
    )


def test_the_recipe_is_checked_with_the_kinds_own_settings(site: Path):
    def show(*settings: str, plugin: bool = True) -> subprocess.CompletedProcess[str]:
        return run(
            site, "-m", "pipelines.show", "tiny.yaml", *(f"--set={s}" for s in settings), plugin=plugin
        )

    shown = show()
    assert shown.returncode == 0, shown.stderr
    tree = yaml.safe_load(shown.stdout)["model"]
    assert (tree["canvas"], tree["fade"], tree["cells"]) == ("fading", 0.9, 7)
    wrong = show("model.fade=2", "model.cells=x", "model.read_size=3", "model.fad=1")
    assert wrong.returncode == 2
    for said in (
        "model.fade=2",
        "model.cells='x'",
        "model.read_size=3: attention=coarse has no such",
        "fade?",
    ):
        assert said in wrong.stderr
    absent = show(plugin=False)
    assert absent.returncode == 2
    assert "model.plugins='acme_kinds': cannot be imported" in absent.stderr
    assert "put its folder on PYTHONPATH" in absent.stderr


@pytest.mark.slow
def test_through_search_training_evaluation_registry_and_load(site: Path):
    for verb in ("tune", "train", "evaluate", "register"):
        done = run(site, "-m", f"pipelines.{verb}", "--recipe", "tiny.yaml")
        assert done.returncode == 0, f"{verb}: {done.stdout}{done.stderr}"
    best = json.loads((site / "artifacts/tiny/search/best.json").read_text())
    assert best["settings"]["model.fade"] in (0.5, 0.9)
    saved = json.loads((site / "artifacts/tiny/train/model/model.json").read_text())
    assert saved["config"]["fade"] == best["settings"]["model.fade"]
    assert "acme_kinds" in saved["plugins"]

    loaded = run(site, "-c", LOAD)
    assert loaded.stdout.strip() == "FadingCanvas", loaded.stderr
    alone = run(site, "-c", LOAD, plugin=False)
    assert alone.returncode != 0
    assert "made with kinds of acme_kinds" in alone.stderr
    assert "cannot be imported" in alone.stderr
    served = run(site, "-c", textwrap.dedent(SERVE), plugin=False)  # the version carries the plugin's code
    assert served.stdout.strip() == "(3, 28, 28)", served.stderr

    code = site.parent / "elsewhere" / "acme_kinds" / "canvas.py"
    digest = ("-c", "from pipelines.tracking.lineage import code_digest; from pipelines.recipes import load_recipe; "
              "print(code_digest(load_recipe('tiny.yaml')))")  # fmt: skip
    before = run(site, *digest)
    code.write_text(code.read_text().replace("self.fade * canvas", "canvas * self.fade"))
    after = run(site, *digest)
    assert before.stdout.strip() != after.stdout.strip(), before.stderr
