"""`seqgen estimate`: a step that is really made, and the arithmetic from it to hours and cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cli.command import run
from pipelines.estimate import Estimate, estimate
from pipelines.estimate.measured import MeasuredStep
from tests.finished_run import tiny_recipe
from tests.sets import write_digits


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        run(estimate, list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with a search, and its shards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEQGEN_ARTIFACTS", raising=False)
    write_digits(tmp_path / "artifacts/tiny/shards")
    path = tiny_recipe(tmp_path)
    tree = yaml.safe_load(path.read_text())
    tree["search"] = {"trials": 5, "epochs": 3, "train_images": 48, "space": {"model.steps": [1, 2, 3]}}
    path.write_text(yaml.safe_dump(tree))
    return path


def test_the_sums_are_those_of_a_hand():
    step = MeasuredStep("cpu", processes=2, threads=1, step_seconds=0.5, held_out_seconds=0.01, memory=2**30)
    found = Estimate(
        measured=step, workers=4, epochs=10, steps=100, batch=64, held_out=200, looks=5, memory_computed=2**20
    )
    assert found.images_per_second == 128
    # 1000 steps of half a second; 5 looks at 200 images, by 4 workers instead of 2.
    assert found.seconds == 500 + 5 * 200 * 0.01 / 2
    assert found.worker_hours == pytest.approx(4 * 505 / 3600)
    search = Estimate(**{**vars(found), "times": 7, "concurrent": 3})
    assert search.seconds == 3 * 505
    assert search.worker_hours == pytest.approx(7 * 4 * 505 / 3600)


def test_a_step_is_measured_and_what_follows_from_it_is_said(
    recipe: Path, capsys: pytest.CaptureFixture[str]
):
    assert call("--recipe", str(recipe), "--workers", "1", "--json", "--price-per-hour", "2") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    training, search = found["training"], found["search"]
    for each in (training, search):
        measured = each["measured"]
        assert measured["processes"] == 1
        assert measured["step_seconds"] > 0
        assert measured["memory"] > each["memory_computed"] > 0
        assert each["images_per_second"] == pytest.approx(16 / measured["step_seconds"])
        assert each["cost"] == pytest.approx(2 * each["worker_hours"])
    assert (training["steps"], training["epochs"], training["looks"], training["held_out"]) == (4, 1, 1, 20)
    assert (search["steps"], search["epochs"], search["times"]) == (3, 3, 3)


def test_two_workers_are_measured_as_two_processes_where_they_fit(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pipelines.estimate.measured.cores", lambda: 2)
    assert call("--recipe", str(recipe), "--set", "search=null", "--workers", "2", "--batches", "2") == 0
    out = capsys.readouterr().out
    assert "2 processes of 1 thread on cpu, which added their gradients" in out
    assert "1 epochs of 4 steps of 16 images on 2 workers" in out
    assert "over a network" not in out


def test_more_workers_than_fit_here_are_extrapolated_and_it_says_so(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pipelines.estimate.measured.cores", lambda: 1)
    assert call("--recipe", str(recipe), "--set", "search=null", "--workers", "8", "--batches", "2") == 0
    out = capsys.readouterr().out
    assert "1 process of 1 thread" in out
    assert "a step of 8 workers as long as one of 1: adding gradients over a network is not in it" in out


def test_a_training_that_may_go_on_with_fewer_workers_is_measured_where_not_even_they_fit(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pipelines.estimate.measured.cores", lambda: 1)
    elastic = ("--set", "train.fewest_workers=2", "--workers", "2", "--batches", "2")
    assert call("--recipe", str(recipe), *elastic) == 0
    out = capsys.readouterr().out
    assert "1 epochs of 4 steps of 16 images on 2 workers" in out
    assert "1 process of 1 thread" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "3"], "train.batch=16 is not divisible by train.workers=3"),
        (["--set", "train.batch=4096"], "train.batch=4096 exceeds the 64 training images"),
    ],
)
def test_bad_input_is_named(
    recipe: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    assert call("--recipe", str(recipe), *arguments) == 2
    assert said in capsys.readouterr().err
