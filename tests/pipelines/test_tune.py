"""The tune verb: what it refuses before anything starts, and the life of a real search."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray.cluster_utils import Cluster

from pipelines.recipes import choose
from pipelines.tune import search, search_name
from seqgen.data.manifest import read_manifest
from seqgen.settings import build_recipe
from tests.free_ports import free_ports
from tests.sets import write_digits
from tests.tiny_search import TREE, tiny

ROOT = Path(__file__).resolve().parents[2]


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


class Search:
    """A directory with shards, and `python -m pipelines.tune` in it."""

    def __init__(self, where: Path, space: dict[str, Any], images: int, **settings: Any) -> None:
        self.where = where
        tree = {**TREE, "search": {**TREE["search"], "space": space, "train_images": images, **settings}}
        self.started: list[subprocess.Popen[str]] = []
        (where / "tiny.yaml").write_text(yaml.safe_dump(tree))
        write_digits(where / "artifacts/tiny/shards", {"train": images, "valid": 32, "test": 16})

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "pipelines.tune", "--recipe", "tiny.yaml", *arguments],
            cwd=self.where, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={
                **outside, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **environment
            },
        )  # fmt: skip
        self.started.append(process)
        return process

    def close(self) -> None:
        """Kill what still runs of what was started here."""
        for process in self.started:
            if process.poll() is None:
                kill(process)

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        process = self.start(*arguments, **environment)
        text, _ = process.communicate(timeout=400)
        return process.returncode, text

    def trials(self) -> list[dict[str, str]]:
        with (self.where / "artifacts/tiny/search/trials.csv").open(newline="") as stream:
            return list(csv.DictReader(stream))

    def best(self) -> dict[str, Any]:
        return json.loads((self.where / "artifacts/tiny/search/best.json").read_text())

    def runs(self) -> tuple[list[Any], list[Any]]:
        """The tracked runs: studies, and trials in the order of their names."""
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self.where / 'mlflow.db'}")
        found = client.search_runs([client.get_experiment_by_name("seqgen").experiment_id])
        kinds: dict[str, list[Any]] = {"study": [], "trial": []}
        for run in sorted(found, key=lambda run: run.info.run_name):
            kinds[run.data.tags["seqgen.kind"]].append(run)
        return kinds["study"], kinds["trial"]

    def steps(self, run_id: str) -> list[int]:
        """The steps at which a run's bound was logged, in the order of logging."""
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self.where / 'mlflow.db'}")
        history = client.get_metric_history(run_id, "valid/dynamic/free_energy")
        return sorted(metric.step for metric in history)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL a driver and what is left of the cluster it started."""
    cluster = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(cluster, timeout=5)
    for orphan in left:
        orphan.kill()


def until(process: subprocess.Popen[str], seen: Callable[[str], bool]) -> str:
    """Read the lines of a process up to the first that is looked for, and return them all."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if seen(line):
            return "".join(lines)
    raise AssertionError(f"ended before: {''.join(lines)}")


def trial_processes(driver: int) -> Iterator[psutil.Process]:
    """The processes in which the trials of this driver train."""
    for process in psutil.Process(driver).children(recursive=True):
        if "ray::ImplicitFunc" in " ".join(process.cmdline()):
            yield process


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "search.space={model.steps: [2, 0]}"), "model.steps=0"),
        (("--set", "search.workers=512", "--set", "train.batch=512"), "search.workers=512"),
        (("--set", "search.train_images=8"), "train.batch=16 exceeds the 8 images"),
        (("--set", "data.binarise=threshold"), "other data settings"),
    ],
)
def test_bad_input_ends_with_2_before_anything_starts(
    tmp_path: Path, arguments: tuple[str, ...], message: str
):
    code, text = Search(tmp_path, {"model.steps": [1, 2]}, 512).run(*arguments)
    assert (code, text.count("\n")) == (2, 1), text
    assert message in text
    assert not (tmp_path / "artifacts/tiny/search").exists()
    assert not (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / ".seqgen/ray").exists()


@pytest.mark.slow
def test_a_tracking_server_that_is_away_ends_the_search_with_1_before_ray_starts(tmp_path: Path):
    searched = Search(tmp_path, {"model.steps": [1, 2]}, 48)
    code, text = searched.run(MLFLOW_TRACKING_URI="http://someone:canary@127.0.0.1:9")
    assert code == 1
    assert "tracking server" in text
    assert "canary" not in text
    assert "Traceback" not in text
    assert not (tmp_path / ".seqgen/ray").exists()


@pytest.fixture
def long_search(tmp_path: Path) -> Iterator[Search]:
    # A trial must outlast the time between two of Tune's saved states, or a killed search goes on from none.
    searched = Search(tmp_path, {"model.steps": [4, 5, 6]}, 1024, trials=3, epochs=6, grace_epochs=6)
    with contextlib.closing(searched):
        yield searched


@pytest.mark.slow
def test_the_life_of_a_search(long_search: Search):
    """Its trials die, it is asked to stop, its driver is killed; then the same command ends it."""
    searched = long_search

    # A killed trial is a failed one, and the search goes on.
    driver = searched.start()
    until(driver, lambda line: "epoch 1/6" in line)
    victim = next(trial_processes(driver.pid))
    victim.kill()
    text = until(driver, lambda line: line.startswith("trial ") and "failed: " in line)
    failed = text.splitlines()[-1][: len("trial 1/3")]
    assert "died" in text.splitlines()[-1], "the reason"
    until(driver, lambda line: line.startswith("trial 3/3"))

    # SIGTERM: state saved, exit 4, statuses right.
    driver.send_signal(signal.SIGTERM)
    text, _ = driver.communicate(timeout=120)
    assert driver.returncode == 4, text
    assert "run the same command again" in text
    (parent,), children = searched.runs()
    assert parent.info.status == "KILLED"
    ended = {f"{child.info.run_name}/3": child.info.status for child in children}
    assert ended.pop(failed) == "FAILED"
    assert "RUNNING" not in ended.values()
    assert not (searched.where / "artifacts/tiny/search").exists()

    # SIGKILL of the driver after a trial has ended.
    driver = searched.start()
    text = until(driver, lambda line: "epoch 6/6" in line)
    kill(driver)

    code, text = searched.run()
    assert code == 0, text
    assert "goes on, was at epoch" in text
    rows = searched.trials()
    assert [(row["model.steps"], row["epochs"], row["status"]) for row in rows] == [
        (steps, "6", "finished") for steps in "456"
    ]
    best = searched.best()
    winner = min(rows, key=lambda row: float(row["bound"]))
    assert best["settings"] == {"model.steps": int(winner["model.steps"])}
    assert best["objective"] == pytest.approx(float(winner["bound"]))
    assert (best["trials"], best["failed"]) == (3, 0)
    (parent,), children = searched.runs()
    assert parent.info.status == "FINISHED"
    assert [child.info.status for child in children] == ["FINISHED"] * 3
    for child in children:
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert searched.steps(child.info.run_id) == [64 * epoch for epoch in range(1, 7)], "each epoch once"
    assert {child.data.params["model.steps"] for child in children} == {"4", "5", "6"}

    # It is over: the same command is a new search.
    assert not any("goes on" in line for line in until(searched.start(), lambda line: "starts" in line))


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


@pytest.fixture
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster that has two CPUs, whatever this machine has."""
    (port,) = free_ports(1)
    # As `connected` has it: where its actors ask whether a training still lives, and where workers find the code.
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "num_gpus": 0, "include_dashboard": True, "dashboard_port": port},
    )
    yield cluster.address
    cluster.shutdown()


@pytest.mark.slow
def test_trials_of_two_workers_take_turns_on_two_cpus(tmp_path: Path, two_cpus: str):
    """Two at once would wait for each other for ever. Their settings are Optuna's choice."""
    space = {"model.steps": [2, 3], "train.learning_rate": {"low": 0.0001, "high": 0.01, "log": True}}
    searched = Search(tmp_path, space, 64, trials=2, epochs=2, workers=2, minutes=8)
    with contextlib.closing(searched):
        code, text = searched.run(RAY_ADDRESS=two_cpus)
    assert code == 0, text
    assert "2 trials by Optuna, 1 at once" in text
    rows = searched.trials()
    assert len(rows) == 2
    assert {row["status"] for row in rows} <= {"finished", "asha"}
    assert rows[0]["epochs"] == "2"
    assert all(float(row["bound"]) > 0 for row in rows)
    (parent,), children = searched.runs()
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 3
    assert all(child.data.params["train.workers"] == "2" for child in children)
    stopped = [child for child, row in zip(children, rows, strict=True) if row["status"] == "asha"]
    assert all(child.data.tags["seqgen.stopped_by"] == "asha" for child in stopped)
