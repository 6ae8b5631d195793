"""What a search left: trained unless set otherwise, refused if it is another search's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.artifacts.places import places
from pipelines.artifacts.search_result import load_searched, write_search_result
from pipelines.recipes import load_recipe
from seqgen.core.errors import BadInput
from tests.tiny_search import TREE


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a recipe that is searched."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEQGEN_ARTIFACTS", raising=False)
    space = {"model.steps": [2, 5], "train.ema": [0.5, 0.9], "model.attention": ["gaussian", "full"]}
    Path("tiny.yaml").write_text(yaml.safe_dump({**TREE, "search": {**TREE["search"], "space": space}}))
    return tmp_path


def found(**settings: Any) -> None:
    """Leave a search that found these settings; `__` stands for a dot."""
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    write_search_result(load_recipe("tiny.yaml"), {"settings": dotted})


def test_before_the_search_the_recipe_s_own_settings_stand():
    assert load_searched("tiny.yaml") == load_recipe("tiny.yaml")


def test_what_the_search_found_is_trained_unless_set_otherwise(capsys: pytest.CaptureFixture[str]):
    found(model__steps=5, train__ema=0.5, model__attention="gaussian")
    recipe = load_searched("tiny.yaml", ["train.ema=0.75"])
    assert (recipe.model.steps, recipe.train.ema) == (5, 0.75)
    assert "model.steps=5" in capsys.readouterr().out
    assert load_searched("tiny.yaml", ["search=null"]).model.steps == 2


def test_a_kind_that_was_found_replaces_the_recipe_s_with_all_it_owned():
    found(model__steps=5, train__ema=0.5, model__attention="full")
    recipe = load_searched("tiny.yaml")
    assert recipe.model.attention == "full"
    assert not {"read_size", "write_size"} & recipe.model.model_dump().keys()


def test_the_result_of_another_search_or_of_none_is_refused():
    found(model__steps=5)
    with pytest.raises(BadInput, match="made for another space"):
        load_searched("tiny.yaml")
    result = places(load_recipe("tiny.yaml")).search / "best.json"
    for damaged in ("[]", "{", json.dumps({"settings": 1})):
        result.write_text(damaged)
        with pytest.raises(BadInput, match=r"best\.json: not the result of a search .* --recipe tiny\.yaml"):
            load_searched("tiny.yaml")
