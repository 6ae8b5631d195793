"""What `train` refuses before anything starts; names of runs (real ones: tests/faults/test_training.py)."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pipelines.artifacts.shards import checked_manifest
from pipelines.recipes import load_recipe
from pipelines.tracking import lineage
from pipelines.train import run_name
from seqgen.core.machine import cores
from tests.sets import write_digits
from tests.train_runs import prepare, train


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a recipe and its shards."""
    monkeypatch.chdir(prepare(tmp_path))
    for name in ("SEQGEN_ARTIFACTS", "SEQGEN_STORAGE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


# Refused before anything starts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "train.batch=9998"], "train.batch=9998 exceeds the 64"),
        (["--set", "model.steps=0"], "model.steps=0"),
        (["--set", "train.epoch=3"], "did you mean epochs?"),
        (["--workers", "3"], "not divisible by train.workers=3"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_bad_input_ends_with_code_2_and_leaves_nothing(place: Path, arguments: list[str], message: str):
    done = train(place, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert sorted(path.name for path in place.iterdir()) == ["artifacts", "tiny.yaml"]


def test_more_workers_than_cpus_are_refused_before_ray_starts(place: Path):
    write_digits(place / "artifacts/tiny/shards", {"train": 1024, "valid": 16, "test": 16})
    done = train(place, "--workers", "1024", "--set", "train.batch=1024")
    assert done.returncode == 2
    expected = f"train.workers=1024: this machine has {cores()} CPUs; use --workers {cores()} or less"
    assert expected in done.stderr
    assert not (place / ".seqgen").exists()


def test_a_run_that_cannot_fit_in_memory_is_refused(place: Path):
    write_digits(place / "artifacts/tiny/shards", {"train": 64, "valid": 16, "test": 16})
    large = [
        "model.steps=1000",
        "model.canvas_channels=100000",
        "model.observation=conv",
        "model.canvas=cgru",
    ]
    done = train(place, "--workers", "1", *(f"--set={text}" for text in large))
    assert done.returncode == 2
    assert "GiB" in done.stderr
    assert not (place / ".seqgen").exists()


def test_a_tracking_server_that_is_down_ends_with_code_1(place: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = train(place, "--workers", "1", MLFLOW_TRACKING_URI=f"http://ann:secret@127.0.0.1:{port}")
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "secret" not in done.stdout + done.stderr
    assert not (place / ".seqgen/ray").exists()
    assert not (place / "artifacts/tiny/train").exists()


def test_the_name_of_a_run_tells_settings_data_and_code_but_not_workers(
    place: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = load_recipe("tiny.yaml")
    name = run_name(recipe, checked_manifest(recipe))
    assert name == run_name(
        load_recipe("tiny.yaml", ["train.workers=1", "train.max_failures=0"]), checked_manifest(recipe)
    )
    assert name != run_name(load_recipe("tiny.yaml", ["train.seed=1"]), checked_manifest(recipe))
    with monkeypatch.context() as patch:
        patch.setattr(lineage, "code_digest", lambda recipe: "other")
        assert name != run_name(recipe, checked_manifest(recipe))
    write_digits(place / "artifacts/tiny/shards", seed=1)
    assert name != run_name(recipe, checked_manifest(recipe))
