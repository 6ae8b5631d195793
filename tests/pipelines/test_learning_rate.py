"""`seqgen learning-rate`: a range test of a recipe on its shards, the table, the files, and what it refuses."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipelines.cli.command import run
from pipelines.learning_rate import learning_rate
from pipelines.recipes import load_recipe
from seqgen import training
from tests.finished_run import tiny_recipe
from tests.sets import write_digits

HERE = Path("artifacts/tiny")


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        run(learning_rate, ["--device", "cpu", *arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    for name in ("SEQGEN_ARTIFACTS", "SEQGEN_SHARDS"):
        monkeypatch.delenv(name, raising=False)
    write_digits(tmp_path / HERE / "shards")
    return str(tiny_recipe(tmp_path, workers=2))


def test_it_suggests_a_rate_and_leaves_the_curve(recipe: str, capsys: pytest.CaptureFixture[str]):
    assert call("--recipe", recipe, "--steps", "80") == 0
    found = json.loads((HERE / "learning-rate.json").read_text())
    out = capsys.readouterr().out
    assert f"--set train.learning_rate={found['suggestion']:.2g}\n" in out
    assert f"      1.0e-06  {found['smoothed'][0]:.2f}\n" in out
    assert len(found["rates"]) == len(found["losses"]) == len(found["smoothed"])
    assert found["settings_digest"] == load_recipe(recipe).digest()
    with Image.open(io.BytesIO((HERE / "learning-rate.png").read_bytes())) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
    assert sorted(path.name for path in HERE.iterdir()) == [
        "learning-rate.json",
        "learning-rate.png",
        "shards",
    ]

    first: list[float] = []

    class Losses(training.Callback):
        def step(self, metrics: dict[str, torch.Tensor]) -> None:
            first.append(float(metrics["free_energy"]))

    plain = load_recipe(recipe, ["train.workers=1"])
    training.run(plain, HERE / "shards", callbacks=[Losses()])
    assert found["losses"][0] == first[0]


def test_where_nothing_is_learned_the_curve_is_kept_and_nothing_suggested(
    recipe: str, capsys: pytest.CaptureFixture[str]
):
    assert call("--recipe", recipe, "--steps", "50", "--set", "train.clip=1e-30") == 3
    assert "no rate to suggest; give more --steps than 50" in capsys.readouterr().err
    assert json.loads((HERE / "learning-rate.json").read_text())["suggestion"] is None
    assert (HERE / "learning-rate.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "49"], "greater than or equal to 50"),
        (["--set", "train.batch=128"], "train.batch=128 exceeds the 64 training images"),
        (["--set", "model.steps=90000000"], "model.steps=90000000"),
    ],
)
def test_bad_input_is_named_before_anything_starts(
    recipe: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    assert call("--recipe", recipe, *arguments) == 2
    assert said in capsys.readouterr().err
    assert not (HERE / "learning-rate.json").exists()
