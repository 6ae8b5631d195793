"""Settings: everything wrong is named at once, with the remedy, before anything runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipelines.recipes import load_recipe, recipe_names
from seqgen.core.errors import BadInput
from seqgen.settings import build_recipe
from seqgen.settings.kinds import SLOTS, within


def refused(*assignments: str) -> str:
    with pytest.raises(BadInput) as caught:
        load_recipe("quickstart", assignments)
    return str(caught.value)


def test_a_slot_that_several_kinds_have_is_listed_once():
    found = within(("step", "objective"))
    assert set(found) == set(SLOTS)
    assert len(found) == len(SLOTS)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_printable(name):
    recipe = load_recipe(name)
    assert build_recipe(recipe.model_dump(mode="json", by_alias=True), name) == recipe


def test_a_step_is_not_compiled_for_more_shapes_than_torch_keeps():
    attention = ("model.conditional=true", "model.context=attention", "train.compile=true")
    message = refused(*attention, "train.contexts=[0, 1, 2, 3, 4, 5, 6, 7, 8]")
    assert "train.compile=true: a step is compiled for each of at most 7 numbers of contexts" in message
    assert "train.contexts has 8; leave some out" in message


def test_of_a_kind_that_is_not_known_nothing_else_is_said():
    message = refused("model.attention=spatial-transfomer", "model.read_size=5")
    assert "did you mean spatial-transformer?" in message
    assert "read_size" not in message


def test_all_problems_come_together():
    message = refused("train.batch=63", "model.read_size=40", "model.write_size=50")
    assert "train.batch=63" in message
    assert "model.read_size=40" in message
    assert "model.write_size=50" in message


def test_overrides_are_typed():
    recipe = load_recipe("quickstart", ["train.learning_rate=1e-4", "model.steps=5", "search=null"])
    assert recipe.train.learning_rate == 1e-4
    assert recipe.model.steps == 5
    assert recipe.search is None


def test_assignments_win_over_a_search_result():
    recipe = load_recipe(
        "quickstart", ["model.steps=5"], found={"model.steps": 3, "train.learning_rate": 0.5}
    )
    assert (recipe.model.steps, recipe.train.learning_rate) == (5, 0.5)


def test_params_yaml_of_the_working_directory_chooses_if_it_names_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = tmp_path / "params.yaml"
    with pytest.raises(BadInput, match=r"no params\.yaml"):
        load_recipe(None)
    params.write_text("recipes: [quickstart]\n")
    assert load_recipe(None).name == "quickstart"
    params.write_text("recipes: [quickstart, mnist-first]\n")
    with pytest.raises(BadInput, match="quickstart, mnist-first"):
        load_recipe(None)
    params.write_text("recipe: quickstart\n")
    with pytest.raises(BadInput, match="needs `recipes"):
        load_recipe(None)


def test_digest_ignores_what_does_not_decide_the_result():
    base = load_recipe("quickstart")
    assert load_recipe("quickstart", ["train.workers=1", "train.max_failures=9"]).digest() == base.digest()
    assert load_recipe("quickstart", ["train.seed=1"]).digest() != base.digest()
    assert load_recipe("quickstart", ["model.steps=5"]).digest() != base.digest()


def test_when_a_run_ends_is_no_part_of_its_name_and_in_how_many_parts_of_no_digest():
    base, patient = load_recipe("quickstart"), load_recipe("quickstart", ["train.patience=3"])
    assert (
        load_recipe("quickstart", ["train.accumulate=4", "train.gallery_every=0"]).digest() == base.digest()
    )
    assert patient.digest() != base.digest()
    assert patient.run_digest() == base.run_digest()


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["train.accumulate=3"], "of train.batch=64 each of 2 workers has 32 images"),
        (
            ["train.batch=60", "train.workers=5", "train.fewest_workers=4", "train.accumulate=4"],
            "of train.batch=60 each of 4 workers has 15 images",
        ),
    ],
)
def test_every_worker_of_whatever_number_has_equal_parts(assignments, expected):
    with pytest.raises(BadInput, match=expected):
        load_recipe("quickstart", assignments)


def test_a_set_made_before_there_was_a_choice_of_rules_keeps_its_digest():
    base = load_recipe("quickstart-characters")
    assert "rule" not in base.data.model_dump()
    assert load_recipe("quickstart-characters", ["data.rule=strokes"]).digest() == base.digest()
    assert load_recipe("quickstart-characters", ["data.rule=nearest"]).digest() != base.digest()


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["data.digits=[]"], "data.digits"),
        (["data.digits=[0, 6]"], "data.digits.1=6"),
        (["data.digits=[-1, 1]"], "data.digits.0=-1"),
        (["data.digits=[true]"], "data.digits.0=True"),
        (["data.digits=[1, 1]"], "digits=[1, 1]: each number once, in rising order"),
        (["data.digits=[2, 0]"], "digits=[2, 0]: each number once, in rising order"),
        (["data.digits=[0]"], "digits=[0]: every image would be blank"),
        (["data.size=28"], "size=28: multi-mnist has 50 or 64"),
        (["data.size=50", "data.digits=[3]", "data.overlap=false"], "2 digits at most on 50 x 50"),
        (["data.digits=[5]", "data.overlap=false"], "4 digits at most on 64 x 64"),
        (
            ["data.digits=[0, 1, 2]", "model.conditional=true"],
            "multi-mnist has no classes to draw pairs from",
        ),
    ],
)
def test_bad_settings_of_multi_mnist_are_named(assignments, expected):
    with pytest.raises(BadInput) as refused:
        load_recipe("sgm-multi-mnist", assignments)
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("standard", "model.conditional=true: data.split=standard takes a folder's images one by one"),
        ("weak", "split=weak: folder has standard or concepts"),
        ("concepts", None),
    ],
)
@pytest.mark.parametrize("pairs", ["character", "alphabet"])
def test_a_conditional_model_wants_a_folder_of_characters(split, expected, pairs):
    asked = [
        f"data={{source: folder, path: mine, size: 28, split: {split}, binarise: static}}",
        f"train.pairs={pairs}",
    ]
    if expected is None:
        assert load_recipe("quickstart-characters", asked).data.path == "mine"
        return
    with pytest.raises(BadInput) as refused:
        load_recipe("quickstart-characters", asked)
    assert expected in str(refused.value)


def test_multi_mnist_keeps_its_digest_until_another_number_of_digits_is_asked_for():
    base = load_recipe("sgm-multi-mnist")
    assert set(base.data.model_dump()) == {"source", "size", "split", "binarise", "seed"}
    assert load_recipe("sgm-multi-mnist", ["data.digits=[2]", "data.overlap=true"]).digest() == base.digest()
    for change in ("data.digits=[0, 1, 2]", "data.overlap=false", "data.size=50"):
        changed = load_recipe("sgm-multi-mnist", [change])
        assert changed.digest() != base.digest()
        assert type(base.data).model_validate(changed.data.model_dump(mode="json")) == changed.data


def test_reading_a_recipe_imports_nothing_heavy():
    code = (
        "import sys; from pipelines.recipes import load_recipe; load_recipe('quickstart'); "
        "print([m for m in ('torch', 'ray', 'mlflow', 'matplotlib', 'boto3') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
