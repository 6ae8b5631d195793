"""The verbs of figures, from a finished run to the picture and its table."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.artifacts.one_shot import read_tables
from pipelines.evaluate.animate import animate
from pipelines.evaluate.copies import copies
from pipelines.evaluate.figure6 import figure6
from pipelines.evaluate.figure9 import figure9
from pipelines.evaluate.figure10 import figure10
from pipelines.evaluate.figure11 import figure11
from pipelines.evaluate.figures import subject
from seqgen.core.errors import BadInput
from seqgen.evaluation.bounds import free_energies
from tests.finished_run import finished_run, tiny_recipe, work_in


@pytest.fixture
def project(tmp_path, monkeypatch):
    work_in(tmp_path, monkeypatch)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def test_every_figure_leaves_a_picture_and_says_whose_it_is(project, capsys):
    recipe = tiny_recipe(project, conditional=True, contexts=[0, 1])
    trained = finished_run(recipe)
    for verb in (figure6, figure10, figure11, animate, copies):
        verb(str(recipe), None)
        assert f"written: {trained.places.one_shot / verb.__name__}." in capsys.readouterr().out
    tables = {table["about"]["picture"]: table for table in read_tables(trained)}
    kinds = {
        "animate.gif": "GIF",
        **{f"{n}.png": "PNG" for n in ("copies", "figure6", "figure10", "figure11")},
    }
    assert set(tables) == set(kinds)
    before = {path.name: path.read_bytes() for path in trained.places.one_shot.iterdir()}
    for name, kind in kinds.items():
        with Image.open(trained.places.one_shot / name) as picture:
            assert (picture.format, picture.width > 300) == (kind, True)
        assert tables[name]["command"].startswith(f"python -m pipelines.evaluate.{name.partition('.')[0]} ")
        assert tables[name]["about"]["seed"] == 0
    for verb in (figure6, figure10, figure11, animate, copies):
        verb(str(recipe), None)
    assert {path.name: path.read_bytes() for path in trained.places.one_shot.iterdir()} == before


def test_less_noise_of_the_prior_is_another_picture_with_a_name_of_its_own(project):
    recipe = tiny_recipe(project, conditional=True)
    trained = finished_run(recipe)
    figure10(str(recipe), None)
    figure10(str(recipe), None, temperature=0.5)
    found = {path.name for path in trained.places.one_shot.iterdir()}
    assert {"figure10.png", "figure10-temperature-0.5.png", "figure10-temperature-0.5.json"} <= found
    plain, calm = (
        (trained.places.one_shot / f"figure10{end}.png").read_bytes() for end in ("", "-temperature-0.5")
    )
    assert plain != calm
    table = json.loads((trained.places.one_shot / "figure10-temperature-0.5.json").read_text())
    assert table["command"].startswith("python -m pipelines.evaluate.figure10 ")
    assert table["command"].endswith(" --temperature 0.5")
    assert table["about"]["picture"] == "figure10-temperature-0.5.png"


def test_what_shows_the_character_that_was_given_wants_contexts_of_it(project):
    recipe = tiny_recipe(project, conditional=True, pairs="alphabet")
    trained = finished_run(recipe)
    for verb in (figure10, animate, copies):
        with pytest.raises(BadInput, match=r"train\.pairs=alphabet in tiny: .*pairs=character"):
            verb(str(recipe), None)
    figure11(str(recipe), None)
    assert (trained.places.one_shot / "figure11.png").is_file()


def test_the_table_of_copies(project):
    recipe = tiny_recipe(project, conditional=True)
    trained = finished_run(recipe)
    copies(str(recipe), None, samples=8)
    table = json.loads((trained.places.one_shot / "copies.json").read_text())
    entries = table["entries"]
    assert set(entries) == {
        *("copies", "copies_at_5"),
        *(f"{of}_distance_{whose}" for of in ("nearest", "context") for whose in ("samples", "people")),
    }
    assert table["about"]["training_images"] == 32
    for one in entries.values():
        assert (one["images"], one["unit"]) == (8, "%")
        assert 0 <= one["value"] <= 100
    # An untrained model draws an even grey, of which no pixel is ink: it has nothing in common with any image.
    assert entries["nearest_distance_samples"]["value"] == 100
    assert entries["copies"]["value"] == 0
    assert 0 < entries["context_distance_people"]["value"] < 100


def test_f_is_the_evaluations_where_it_measured_these_weights(project):
    trained = finished_run(tiny_recipe(project, conditional=True))
    path = trained.places.evaluate / "bounds.npy"
    measured = np.load(path)
    np.save(path, measured + 1)
    assert subject(trained).free_energy.tolist() == pytest.approx((measured + 1).tolist())
    about = trained.places.evaluate / "evaluation.json"
    about.write_text(about.read_text().replace(trained.weights, "0" * 64))
    assert subject(trained).free_energy.tolist() == pytest.approx(measured.tolist(), rel=1e-5)
    path.unlink()
    assert subject(trained).free_energy.tolist() == pytest.approx(measured.tolist(), rel=1e-5)


def test_without_a_context_f_is_measured_without_one(project):
    trained = finished_run(tiny_recipe(project, conditional=True, contexts=[0, 1]))
    shown = subject(trained, 0)
    assert shown.held_out.context is not None
    assert shown.held_out.context.shape[1] == 0
    assert torch.equal(shown.free_energy, free_energies(shown.model, shown.held_out, 0).free_energy)
    assert not torch.equal(shown.free_energy, subject(trained).free_energy)


def test_one_split_stands_beside_the_other(project):
    recipes = [tiny_recipe(project, conditional=True, name=name) for name in ("one", "other")]
    trained = [finished_run(recipe, seed=seed) for seed, recipe in enumerate(recipes)]
    path = trained[0].places.one_shot / "figure10.png"
    figure10(str(recipes[0]), None)
    with Image.open(path) as alone:
        figure10(str(recipes[0]), None, [str(recipes[1])])
        with Image.open(path) as both:
            assert (
                both.width == 2 * alone.width
            )  # the tiny set has four characters, fewer than either sheet may show
            assert both.crop((0, 0, *alone.size)).tobytes() == alone.tobytes()
    about = json.loads(path.with_suffix(".json").read_text())["about"]
    assert about["beside"] == [f"other {trained[1].weights}"]


def test_figures_refuse_what_they_are_not_of(project):
    digits = tiny_recipe(project, name="digits")
    finished_run(digits)
    strokes = tiny_recipe(project, conditional=True, name="strokes")
    finished_run(strokes)
    for verb in (figure9, figure10, figure11, animate, copies):
        with pytest.raises(BadInput, match=r"model\.conditional=false in digits"):
            verb(str(digits), None)
    figure6(str(digits), None)
    with pytest.raises(
        BadInput, match=r"train\.contexts=\[1\] in strokes: the model was never trained without"
    ):
        figure6(str(strokes), None)
    with pytest.raises(
        BadInput, match=r"data\.split=30-20 in strokes: figure 9 is of the split weak; use figure10"
    ):
        figure9(str(strokes), None)


def test_the_weak_split_is_figure_9(project):
    recipe = tiny_recipe(project, conditional=True)
    recipe.write_text(recipe.read_text().replace("30-20", "weak"))
    trained = finished_run(recipe)
    figure9(str(recipe), None)
    assert (trained.places.one_shot / "figure9.png").is_file()
    with pytest.raises(BadInput, match=r"data\.split=weak in tiny: .* use figure9"):
        figure10(str(recipe), None)
