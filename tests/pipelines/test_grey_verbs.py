"""The verbs on a model of grey images: what measures and draws works, what counts ink is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipelines.artifacts.trained_model import TrainedModel
from pipelines.evaluate import evaluate
from pipelines.evaluate.complexity import complexity
from pipelines.evaluate.copies import copies
from pipelines.evaluate.figure6 import figure6
from pipelines.evaluate.gap import gap
from pipelines.evaluate.impute import impute
from pipelines.evaluate.interpolate import interpolate
from pipelines.report import report
from seqgen.core.errors import BadInput
from seqgen.evaluation import bounds
from tests.finished_run import finished_run, tiny_recipe, work_in


def grey_run(directory: Path, **model: object) -> TrainedModel:
    """A run of grey digits with an untrained model."""
    path = tiny_recipe(directory)
    tree = yaml.safe_load(path.read_text())
    tree["data"]["binarise"] = "grey"
    tree["model"] |= {"observation": "logit-normal", **model}
    path.write_text(yaml.safe_dump(tree))
    return finished_run(path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    work_in(tmp_path, monkeypatch)
    return tmp_path


def test_grey_images_are_measured_drawn_and_reported(here: Path, capsys: pytest.CaptureFixture[str]):
    trained = grey_run(here)
    recipe = str(here / "tiny.yaml")
    evaluate(recipe)
    metrics = json.loads((trained.places.evaluate / "metrics.json").read_text())
    assert list(metrics["test"]) == ["grey"]
    assert metrics["test"]["grey"]["iwae_2"] < metrics["test"]["grey"]["bound"]
    figure6(recipe)
    assert (trained.places.one_shot / "figure6.png").is_file()
    report(recipe)
    assert "test/grey, 20 images" in capsys.readouterr().out
    with pytest.raises(BadInput, match="the baseline of independent pixels is of binary images"):
        impute(recipe)
    for verb in (complexity, gap):
        with pytest.raises(
            BadInput, match=r"data\.binarise=grey in tiny: the pixel predictor is of binary images"
        ):
            verb(recipe)


def test_copies_of_grey_images_are_not_counted_in_ink(here: Path):
    grey_run(here, conditional=True)
    with pytest.raises(BadInput, match="the distance in ink is of binary images"):
        copies(str(here / "tiny.yaml"), samples=10)


def test_mixed_grey_images_keep_their_levels(here: Path, monkeypatch: pytest.MonkeyPatch):
    """F of images mixed of two is that of levels, not of what is left of them in whole numbers."""
    grey_run(here)
    seen = []
    measured = bounds.free_energies
    monkeypatch.setattr(
        bounds,
        "free_energies",
        lambda model, held, *a, **k: seen.append(held.x) or measured(model, held, *a, **k),
    )
    interpolate(str(here / "tiny.yaml"), pairs=4)
    assert len(seen) == 3
    for x in seen:
        assert x.is_floating_point()
        assert ((x > 0) & (x < 1)).any()
