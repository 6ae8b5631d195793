"""The verbs impute and interpolate, from a finished run to the picture and its table."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from pipelines.artifacts.findings import one_shot
from pipelines.evaluate.impute import impute
from pipelines.evaluate.interpolate import interpolate
from seqgen.core.errors import BadInput
from tests.finished_run import finished_run, tiny_recipe, work_in


@pytest.fixture
def project(tmp_path, monkeypatch):
    work_in(tmp_path, monkeypatch)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def impute_few(recipe, masks: str) -> None:
    impute(str(recipe), None, masks, images=4, chains=2, steps=3, parts=2, moves=1)


@pytest.mark.parametrize("conditional", [False, True])
def test_missing_pixels_are_drawn_and_scored(project, conditional):
    recipe = tiny_recipe(project, conditional=conditional)
    trained = finished_run(recipe)
    hole = Image.new("L", (28, 28))
    hole.paste(255, (10, 10, 12, 13))
    hole.save(project / "a hole.png")
    impute_few(recipe, "left,random:0.5,a hole.png")
    (table,) = one_shot(trained)
    assert table["picture"].startswith("data:image/png")
    assert table["command"].endswith(
        "--masks 'left,random:0.5,a hole.png' --images 4 --chains 2 --steps 3 --parts 2 --moves 1"
    )
    assert table["about"]["missing"]["a hole.png"] == 6
    entries = table["entries"]
    assert len(entries) == 3 * 6
    for label in ("left", "random_50", "a_hole"):
        nll, baseline, gain = (entries[f"impute_{label}_{name}"] for name in ("nll", "baseline", "gain"))
        assert gain["value"] == pytest.approx(baseline["value"] - nll["value"])
        assert (nll["images"], nll["k"], nll["unit"]) == (4, 2, "nats")
        assert all(one["se"] is not None for one in (nll, baseline, gain))
    pixels = entries["impute_a_hole_nll"]["value"] / 6
    assert entries["impute_a_hole_per_pixel"]["value"] == pytest.approx(pixels)
    before = {path.name: path.read_bytes() for path in trained.places.one_shot.iterdir()}
    impute_few(recipe, "left,random:0.5,a hole.png")
    assert {path.name: path.read_bytes() for path in trained.places.one_shot.iterdir()} == before


def test_a_mask_that_cannot_be_is_refused_before_anything_is_measured(project):
    recipe = tiny_recipe(project)
    trained = finished_run(recipe)
    Image.new("L", (20, 28), 255).save(project / "narrow.png")
    with pytest.raises(BadInput, match=r"narrow\.png: 28x20 pixels .* the images have 28x28"):
        impute_few(recipe, "left,narrow.png")
    with pytest.raises(BadInput, match=r"--masks=left,some/left\.png: two of one name"):
        impute_few(recipe, "left,some/left.png")
    assert not trained.places.one_shot.exists()


@pytest.mark.parametrize("conditional", [False, True])
def test_the_way_between_images_is_drawn_and_measured(project, conditional):
    recipe = tiny_recipe(project, conditional=conditional)
    trained = finished_run(recipe)
    interpolate(str(recipe), None, pairs=6)
    (table,) = one_shot(trained)
    assert table["picture"].startswith("data:image/png")
    assert table["command"].endswith(" --pairs 6")
    assert set(table["entries"]) == {
        f"interpolate_free_energy_{name}" for name in ("end", "halfway", "mixed")
    }
    before = json.loads((trained.places.one_shot / "interpolate.json").read_text())
    interpolate(str(recipe), None, pairs=6)
    assert json.loads((trained.places.one_shot / "interpolate.json").read_text()) == before
