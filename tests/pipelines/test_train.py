"""The train verb: what it refuses before anything starts; real runs, killed, stopped and gone on with."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.artifacts.shards import checked_manifest
from pipelines.recipes import load_recipe
from pipelines.tracking import lineage
from pipelines.train import run_name
from seqgen.core.files import file_sha256
from seqgen.core.machine import cores
from tests.sets import write_digits

ROOT = Path(__file__).parents[2]
EPOCHS = 10
WORKERS = min(2, cores())  # each needs a CPU of its own
RECIPE = f"""
name: tiny
description: the smallest that is one
data: {{source: mnist-5k, size: 28, binarise: dynamic}}
model:
  {{steps: 2, hidden: 16, latents: 4, attention: gaussian, read_size: 4, write_size: 4, canvas: additive,
    canvas_channels: 1, observation: identity, posterior_hidden: 16}}
train: {{epochs: {EPOCHS}, batch: 16, learning_rate: 3e-3, workers: {WORKERS}, ema: 0.9}}
evaluate: {{}}
register: {{name: tiny}}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a recipe and its shards."""
    monkeypatch.chdir(prepare(tmp_path))
    for name in ("SEQGEN_ARTIFACTS", "SEQGEN_STORAGE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def prepare(place: Path) -> Path:
    (place / "tiny.yaml").write_text(RECIPE)
    write_digits(place / "artifacts/tiny/shards")
    return place


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.train", "--recipe", "tiny.yaml", *arguments]


def environment() -> dict[str, str]:
    wanted = {"PYTHONPATH": str(ROOT), "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300"}
    unwanted = ("SEQGEN_ARTIFACTS", "SEQGEN_STORAGE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS")
    return {key: value for key, value in os.environ.items() if key not in unwanted} | wanted


def train(place: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=place, env=environment() | variables, capture_output=True, text=True
    )


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


# Real runs


class Run:
    """A training process whose lines are read as they come."""

    def __init__(self, place: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            command(*arguments),
            cwd=place,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []

    def wait_for(self, start: str) -> None:
        """Read until a line starts so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith(start):
                return
        raise AssertionError(f"ended without {start!r}: {''.join(self.lines)}")

    def end(self) -> int:
        """Read the rest; the exit code."""
        assert self.process.stdout is not None
        self.lines += self.process.stdout
        return self.process.wait()

    def workers(self) -> list[psutil.Process]:
        """The training workers of this run."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in family if "RayTrainWorker" in " ".join(child.cmdline())]

    @property
    def text(self) -> str:
        return "".join(self.lines)


@contextlib.contextmanager
def running(place: Path, *arguments: str) -> Iterator[Run]:
    """A run that is killed at the end, with what it started, if it has not ended by itself."""
    run = Run(place, *arguments)
    family: list[psutil.Process] = []
    try:
        yield run
        if run.process.poll() is None:
            family = psutil.Process(run.process.pid).children(recursive=True)
    finally:
        for process in [run.process, *family]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        run.process.wait()


def tracked(place: Path) -> list[dict[str, Any]]:
    """Every run of the tracking file: id, status, and the steps of each metric."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("seqgen").experiment_id])
    return [
        {
            "id": run.info.run_id,
            "status": run.info.status,
            "steps": {
                key: [point.step for point in client.get_metric_history(run.info.run_id, key)]
                for key in run.data.metrics
            },
        }
        for run in runs
    ]


def assert_complete(place: Path) -> None:
    """One finished run with every metric once an epoch, and whole products."""
    (run,) = tracked(place)
    assert run["status"] == "FINISHED"
    every = [4 * epoch for epoch in range(1, EPOCHS + 1)]
    assert {tuple(sorted(steps)) for steps in run["steps"].values()} == {tuple(every)}
    products = place / "artifacts/tiny/train"
    assert {path.name for path in products.iterdir()} == {"model", "history.csv", "recipe.json", "run.json"}
    told = json.loads((products / "run.json").read_text())
    assert (told["run_id"], told["epochs"], told["steps"]) == (run["id"], EPOCHS, 4 * EPOCHS)
    history = (products / "history.csv").read_text().splitlines()
    assert history[0].startswith("epoch,step,train/free_energy,")
    assert [int(line.split(",")[0]) for line in history[1:]] == list(range(1, EPOCHS + 1))
    bounds = {int(line.split(",")[0]): float(line.split(",")[8]) for line in history[1:]}
    assert history[0].split(",")[8] == "valid/dynamic/free_energy"
    assert told["best_epoch"] == min(bounds, key=lambda epoch: bounds[epoch])
    assert not [path for path in products.parent.iterdir() if path.name.startswith(".")]


def weights(place: Path) -> str:
    return file_sha256(place / "artifacts/tiny/train/model/weights.safetensors")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the weights of a run that nothing disturbed."""
    place = prepare(tmp_path_factory.mktemp("undisturbed"))
    done = train(place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"epoch {EPOCHS}/{EPOCHS}" in done.stdout
    assert_complete(place)
    return weights(place)


@pytest.mark.slow
def test_a_killed_worker_costs_a_restart_and_changes_nothing(undisturbed: str, place: Path):
    with running(place) as run:
        run.wait_for("epoch  4/")
        run.workers()[-1].send_signal(signal.SIGKILL)
        assert run.end() == 0, run.text
    (resumed,) = (line for line in run.lines if line.startswith("going on after epoch"))
    assert 1 <= int(resumed.split()[-1]) <= EPOCHS
    assert_complete(place)
    assert weights(place) == undisturbed


@pytest.mark.slow
def test_a_killed_driver_and_a_stopped_one_are_gone_on_with(undisturbed: str, place: Path):
    with running(place) as run:
        run.wait_for("epoch  3/")
        run.process.kill()
        run.end()
    assert [found["status"] for found in tracked(place)] == ["RUNNING"]

    with running(place) as run:
        run.wait_for("going on after epoch")
        run.wait_for("epoch")
        run.process.terminate()
        assert run.end() == 4, run.text
    assert "Go on with: python -m pipelines.train --recipe tiny.yaml" in run.lines[-1]
    assert [found["status"] for found in tracked(place)] == ["KILLED"]
    assert not (place / "artifacts/tiny/train").exists()

    done = train(place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on after epoch" in done.stdout
    assert_complete(place)
    assert weights(place) == undisturbed


@pytest.mark.slow
def test_numbers_that_leave_the_finite_end_with_code_3(place: Path):
    spoiling = ["learning_rate=1.0", "final_rate=1.0", "clip=1e30", "epochs=200"]
    done = train(place, "--set=model.steps=10", *(f"--set=train.{text}" for text in spoiling))
    assert done.returncode == 3, done.stdout + done.stderr
    assert "the gradient is not finite" in done.stderr
    assert "seed 0" in done.stderr
    assert [found["status"] for found in tracked(place)] == ["FAILED"]
    assert not (place / "artifacts/tiny/train").exists()


@pytest.mark.slow
def test_used_up_restarts_name_the_last_checkpoint(place: Path):
    with running(place, "--set", "train.max_failures=0") as run:
        run.wait_for("epoch  3/")
        run.workers()[0].send_signal(signal.SIGKILL)
        assert run.end() == 1, run.text
    assert f"the last checkpoint is {place}/.seqgen/ray/tiny-" in run.text
    assert "Go on with: python -m pipelines.train" in run.text
    assert [found["status"] for found in tracked(place)] == ["FAILED"]
