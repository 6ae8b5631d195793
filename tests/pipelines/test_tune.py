"""The tune verb: what it leaves, and what the training takes of it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from pipelines.recipes import choose
from pipelines.tune import search, search_name
from seqgen.data.manifest import read_manifest
from seqgen.settings import build_recipe
from tests.searches import Search
from tests.sets import write_digits
from tests.tiny_search import TREE, tiny


def test_a_changed_search_is_another_one_but_more_minutes_are_not(tmp_path: Path):
    write_digits(tmp_path)
    manifest = read_manifest(tmp_path)
    name = search_name(tiny(), manifest)
    assert name == search_name(tiny(minutes=99.0), manifest)
    assert name != search_name(tiny({"model.steps": [1, 2]}), manifest)
    assert name != search_name(tiny(epochs=2), manifest)
    assert name != search_name(tiny(), manifest.model_copy(update={"digest": "other"}))


def test_a_recipe_without_search_says_so_in_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("SEQGEN_ARTIFACTS", str(tmp_path))
    recipe = build_recipe({"name": "tiny", **TREE, "search": None}, "tiny")
    search(recipe)
    assert json.loads((tmp_path / "tiny/search/best.json").read_text()) == {"settings": {}}
    assert (tmp_path / "tiny/search/trials.csv").read_text() == "trial,epochs,bound,seconds,status\n"
    assert "no search section" in capsys.readouterr().out


@pytest.mark.slow
def test_a_tracking_server_that_is_away_ends_the_search_with_1_before_ray_starts(tmp_path: Path):
    searched = Search(tmp_path, {"model.steps": [1, 2]}, 48)
    code, text = searched.run(MLFLOW_TRACKING_URI="http://someone:canary@127.0.0.1:9")
    assert code == 1
    assert "tracking server" in text
    assert "canary" not in text
    assert "Traceback" not in text
    assert not (tmp_path / ".seqgen/ray").exists()


@pytest.mark.slow
def test_a_search_over_members_trains_each_and_the_training_takes_the_best(tmp_path: Path):
    steps = ["convolutional", "layers", "sequential"]
    searched = Search(tmp_path, {"model.step": steps}, 64, trials=3, epochs=1, minutes=8)
    with contextlib.closing(searched):
        code, text = searched.run()
    assert code == 0, text
    rows = searched.trials()
    assert sorted(row["model.step"] for row in rows) == steps
    assert {row["status"] for row in rows} == {"finished"}
    winner = min(rows, key=lambda row: float(row["bound"]))["model.step"]
    assert searched.best()["settings"] == {"model.step": winner}
    assert choose(tiny(), searched.best()["settings"], "best.json").model.step == winner
