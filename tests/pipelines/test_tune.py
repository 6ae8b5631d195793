"""Searches: what a space may hold, how many trials run at once, and the life of a real search."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray.tune import Checkpoint

from pipelines.cluster.connect import Resources
from pipelines.search import trial
from pipelines.search.driver import room
from pipelines.search.search_space import checked_recipes, describe, is_grid, trial_count, trial_recipe
from pipelines.search.trial import domains
from pipelines.tune import conclude, search, study_name
from seqgen.core.errors import BadInput, OperationalError
from seqgen.data.manifest import read_manifest
from seqgen.settings import Recipe, build_recipe
from seqgen.training import ProcessGroup
from seqgen.training.memory import bytes_needed
from tests.sets import write_digits

ROOT = Path(__file__).resolve().parents[2]
TREE: dict[str, Any] = {
    "description": "a tiny search",
    "data": {"source": "mnist-5k", "size": 28, "binarise": "dynamic"},
    "model": {
        "steps": 2, "attention": "gaussian", "canvas": "additive", "latents": 4, "hidden": 16, "read_size": 3,
        "write_size": 3, "canvas_channels": 1, "observation": "identity",
    },
    "search": {
        "trials": 4, "epochs": 3, "train_images": 48,
        "space": {"model.steps": [1, 2], "model.attention": ["gaussian", "full"]},
    },
    "train": {"epochs": 9, "batch": 16, "learning_rate": 0.001},
    "evaluate": {},
    "register": {"name": "tiny"},
}  # fmt: skip


def tiny(space: dict[str, Any] | None = None, **settings: Any) -> Recipe:
    """The tiny recipe with another space and other settings of its search."""
    asked = {**TREE["search"], **({"space": space} if space is not None else {}), **settings}
    return build_recipe({"name": "tiny", **TREE, "search": asked}, "tiny")


@pytest.mark.parametrize(
    ("space", "named"),
    [
        ({"model.steps": [4, 0]}, ["model.steps=0"]),
        ({"model.stepz": [4]}, ["model.stepz", "did you mean steps?"]),
        ({"model.attention": ["gaussian", "gausian"]}, ["model.attention=", "gausian"]),
        ({"model.steps": [4, "8"]}, ["model.steps=", "'8'"]),
        ({"model.steps": [4, True]}, ["model.steps=True"]),
        ({"model.steps": {"low": 2, "high": 5000}}, ["model.steps=5000"]),
        ({"model.steps": {"low": 2.5, "high": 8}}, ["model.steps=2.5"]),
        ({"model.attention": {"low": 1, "high": 2}}, ["model.attention=1"]),
        (
            {"train.learning_rate": {"low": 0.1, "high": 0.01}},
            ["train.learning_rate", "low=0.1", "0.01"],
        ),
        ({"train.learning_rate": {"low": 0, "high": 0.1, "log": True}}, ["train.learning_rate", "low=0"]),
        ({"train.learning_rate": {"high": 0.1}}, ["train.learning_rate", "low=None"]),
        ({"train.learning_rate": {"low": 0.01, "high": 0.1, "log": "yes"}}, ["log='yes'"]),
        ({"model.canvas_channels": [1, 4]}, ["model.canvas_channels=4", "observation=identity"]),
        ({"train.batch": [16, 0]}, ["train.batch=0"]),
        ({"train.epochs": [3, 4]}, ["train.epochs", "search.epochs"]),
        ({"train.workers": [1, 2]}, ["train.workers", "search.workers"]),
        ({"data.size": [28, 52]}, ["data.size", "only settings of model and train"]),
        ({"model.steps.deep": [1]}, ["model.steps.deep"]),
        ({"model.steps": []}, ["model.steps", "no values"]),
        ({"model.steps": [2, 2]}, ["model.steps", "2 stands twice"]),
        ({}, ["search.space is empty"]),
    ],
)
def test_a_wrong_space_is_refused_by_key_and_value(space: dict[str, Any], named: list[str]):
    with pytest.raises(BadInput) as refused:
        checked_recipes(tiny(space))
    for part in named:
        assert part in str(refused.value)


def test_values_that_are_valid_only_together_are_accepted():
    space = {"model.canvas_channels": [2, 4], "model.observation": ["conv"]}
    assert [recipe.model.canvas_channels for recipe in checked_recipes(tiny(space))] == [2, 4]


def test_a_trial_trains_the_recipe_with_its_settings_and_the_search_s_epochs():
    recipe = tiny(workers=2)
    trial = trial_recipe(recipe, {"model.steps": 1, "train.learning_rate": 0.5})
    assert (trial.model.steps, trial.train.learning_rate) == (1, 0.5)
    assert (trial.train.epochs, trial.train.workers, trial.search) == (3, 2, None)
    assert trial.model.hidden == recipe.model.hidden


def test_a_grid_is_run_whole_only_if_the_trials_suffice():
    assert is_grid(tiny().search)
    assert trial_count(tiny(trials=9).search) == 4, "no more trials than points"
    assert not is_grid(tiny(trials=3).search)
    assert trial_count(tiny(trials=3).search) == 3
    ranged = tiny({"model.steps": [1, 2], "train.learning_rate": {"low": 0.001, "high": 0.1}})
    assert not is_grid(ranged.search)
    assert trial_count(ranged.search) == 4


def test_every_drawn_value_makes_a_valid_recipe_within_its_range():
    space = {
        "model.steps": {"low": 2, "high": 4},
        "model.hidden": {"low": 8, "high": 64, "log": True},
        "train.learning_rate": {"low": 0.0001, "high": 0.1, "log": True},
        "train.clip": {"low": 1, "high": 5},
        "model.attention": ["gaussian", "full"],
    }
    recipe = tiny(space)
    drawn = [
        trial_recipe(recipe, {key: domain.sample() for key, domain in domains(recipe).items()})
        for _ in range(300)
    ]
    assert {trial.model.steps for trial in drawn} == {2, 3, 4}, "both ends of a whole-number range"
    assert all(8 <= trial.model.hidden <= 64 for trial in drawn)
    rates = sorted(trial.train.learning_rate for trial in drawn)
    assert 0.0001 <= rates[0] < rates[150] < 0.02 < rates[-1] <= 0.1, "a log range"
    assert any(trial.train.clip % 1 for trial in drawn), "a number, though its ends are whole"


@pytest.mark.parametrize(
    ("workers", "cpus", "at_once"), [(1, 2, 2), (2, 2, 1), (2, 5, 2), (4, 16, 4), (1, 1, 1)]
)
def test_as_many_trials_run_at_once_as_get_all_their_workers(workers: int, cpus: int, at_once: int):
    assert room(tiny(workers=workers), Resources(cpus, 0, 2**33, here=True)) == (at_once, "cpu")


def test_gpus_bound_the_trials_where_there_are_some():
    assert room(tiny(workers=2), Resources(16, 4, 2**33, here=True)) == (2, "cuda")
    assert room(tiny(workers=8), Resources(16, 4, 2**33, here=True)) == (2, "cpu")


def test_memory_bounds_the_trials_that_run_at_once():
    recipe = tiny({"model.steps": [1, 4]})
    largest = max(bytes_needed(trial) for trial in checked_recipes(recipe))
    assert room(recipe, Resources(16, 0, 3 * largest + 1, here=True)) == (3, "cpu")


def test_a_trial_larger_than_the_cluster_is_refused_with_the_numbers():
    with pytest.raises(BadInput, match=r"search\.workers=4: the Ray cluster has 3 CPUs"):
        room(tiny(workers=4), Resources(3, 0, 2**33, here=False))
    with pytest.raises(BadInput, match=r"model\.steps=900 .* GiB"):
        room(tiny({"model.steps": [1, 900]}), Resources(2, 0, 2**26, here=True))


def test_a_changed_search_is_another_study_but_more_minutes_are_not(tmp_path: Path):
    write_digits(tmp_path)
    manifest = read_manifest(tmp_path)
    name = study_name(tiny(), manifest)
    assert name == study_name(tiny(minutes=99.0), manifest)
    assert name != study_name(tiny({"model.steps": [1, 2]}), manifest)
    assert name != study_name(tiny(epochs=2), manifest)
    assert name != study_name(tiny(), manifest.model_copy(update={"digest": "other"}))


def test_a_recipe_without_search_says_so_in_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("SEQGEN_ARTIFACTS", str(tmp_path))
    recipe = build_recipe({"name": "tiny", **TREE, "search": None}, "tiny")
    assert search(recipe) == {"settings": {}}
    assert json.loads((tmp_path / "tiny/search/best.json").read_text()) == {"settings": {}}
    assert (tmp_path / "tiny/search/trials.csv").read_text() == "trial,epochs,bound,seconds,status\n"
    assert "no search section" in capsys.readouterr().out


def test_a_restored_trial_goes_on_from_its_checkpoint_and_a_done_one_only_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_digits(tmp_path / "shards")
    tree = tiny().model_dump(mode="json", by_alias=True)
    monkeypatch.setattr(trial, "CHECKPOINT_SECONDS", 0.0)

    def train(checkpoint: Checkpoint | None, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []

        def report(row: dict[str, Any], directory: Path | None) -> None:
            rows.append({key: row[key] for key in ("epoch", "step", "valid/dynamic/free_energy")})
            if directory:
                shutil.copytree(directory, tmp_path / name / str(row["epoch"]))

        trial.train_trial(
            {"model.steps": 2}, tree, str(tmp_path / "shards"), ProcessGroup(), checkpoint, report
        )
        return rows

    whole = train(None, "whole")
    assert [(row["epoch"], row["step"]) for row in whole] == [(1, 3), (2, 6), (3, 9)]
    assert train(Checkpoint.from_directory(str(tmp_path / "whole/2")), "rest") == whole[2:]
    assert train(Checkpoint.from_directory(str(tmp_path / "whole/3")), "none") == whole[2:]
    assert not (tmp_path / "none").exists()

    monkeypatch.setattr(trial, "CHECKPOINT_SECONDS", 3600.0)
    assert train(None, "rare") == whole
    assert [path.name for path in (tmp_path / "rare").iterdir()] == ["3"], "the last one always"


class Ended:
    """A search that is over, as `conclude` sees it: rows for trials."""

    objective = "valid/dynamic/free_energy"

    def row(self, trial: tuple[int, float | None, str]) -> dict[str, Any]:
        steps, bound, status = trial
        settings = {"model.steps": steps, "model.attention": "full"}
        return {"trial": steps, **settings, "epochs": 1, "bound": bound, "seconds": 1.5, "status": status}


def test_the_best_trial_that_did_not_fail_wins(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    ended = [(1, 90.0, "asha"), (2, 80.5, "finished"), (3, 70.0, "failed"), (4, None, "out of time")]
    space = {"model.steps": [1, 2, 3, 4, 5], "model.attention": ["full"]}
    best = conclude(tmp_path, tiny(space, trials=5, minutes=2.0), Ended(), ended)
    assert best["settings"] == {"model.steps": 2, "model.attention": "full"}
    assert (best["objective"], best["trials"], best["failed"]) == (80.5, 4, 1)
    assert json.loads((tmp_path / "best.json").read_text()) == best
    assert (tmp_path / "trials.csv").read_text().splitlines() == [
        "trial,model.steps,model.attention,epochs,bound,seconds,status",
        "1,1,full,1,90.0,1.5,asha",
        "2,2,full,1,80.5,1.5,finished",
        "3,3,full,1,70.0,1.5,failed",
        "4,4,full,1,,1.5,out of time",
    ]
    shown = capsys.readouterr().out
    assert "the time was up before 1 more trials: search.minutes=2\n" in shown
    assert "best: model.steps=2 model.attention=full, bound 80.50 nats" in shown


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        ([(1, None, "failed"), (2, 70.0, "failed")], "2 of 2 failed"),
        ([(1, None, "out of time")], "time was up before the first epoch"),
    ],
)
def test_a_search_without_a_bound_fails_and_writes_nothing(
    tmp_path: Path, ended: list[tuple[int, float | None, str]], reason: str
):
    with pytest.raises(OperationalError, match=reason):
        conclude(tmp_path, tiny(), Ended(), ended)
    assert not list(tmp_path.iterdir())


def test_settings_on_one_line():
    assert describe({"model.steps": 4, "train.learning_rate": 0.00123456}) == (
        "model.steps=4 train.learning_rate=0.001235"
    )


class Study:
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
                **outside, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "TUNE_GLOBAL_CHECKPOINT_S": "1", **environment
            },
        )  # fmt: skip
        self.started.append(process)
        return process

    def end(self) -> None:
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
    code, text = Study(tmp_path, {"model.steps": [1, 2]}, 512).run(*arguments)
    assert (code, text.count("\n")) == (2, 1), text
    assert message in text
    assert not (tmp_path / "artifacts/tiny/search").exists()
    assert not (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / ".seqgen/ray").exists()


@pytest.mark.slow
def test_a_tracking_server_that_is_away_ends_the_search_with_1_before_ray_starts(tmp_path: Path):
    study = Study(tmp_path, {"model.steps": [1, 2]}, 48)
    code, text = study.run(MLFLOW_TRACKING_URI="http://someone:canary@127.0.0.1:9")
    assert code == 1
    assert "tracking server" in text
    assert "canary" not in text
    assert "Traceback" not in text
    assert not (tmp_path / ".seqgen/ray").exists()


@pytest.fixture
def long_study(tmp_path: Path) -> Iterator[Study]:
    # A trial must outlast the time between two of Tune's saved states, or a killed search goes on from none.
    study = Study(tmp_path, {"model.steps": [4, 5, 6]}, 1024, trials=3, epochs=6, grace_epochs=6)
    yield study
    study.end()


@pytest.mark.slow
def test_the_life_of_a_search(long_study: Study):
    """Its trials die, it is asked to stop, its driver is killed; then the same command ends it."""
    study = long_study

    # A killed trial is a failed one, and the search goes on.
    driver = study.start()
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
    (parent,), children = study.runs()
    assert parent.info.status == "KILLED"
    ended = {f"{child.info.run_name}/3": child.info.status for child in children}
    assert ended.pop(failed) == "FAILED"
    assert "RUNNING" not in ended.values()
    assert not (study.where / "artifacts/tiny/search").exists()

    # SIGKILL of the driver after a trial has ended.
    driver = study.start()
    text = until(driver, lambda line: "epoch 6/6" in line)
    kill(driver)

    code, text = study.run()
    assert code == 0, text
    assert "goes on, was at epoch" in text
    rows = study.trials()
    assert [(row["model.steps"], row["epochs"], row["status"]) for row in rows] == [
        (steps, "6", "finished") for steps in "456"
    ]
    best = study.best()
    winner = min(rows, key=lambda row: float(row["bound"]))
    assert best["settings"] == {"model.steps": int(winner["model.steps"])}
    assert best["objective"] == pytest.approx(float(winner["bound"]))
    assert (best["trials"], best["failed"]) == (3, 0)
    (parent,), children = study.runs()
    assert parent.info.status == "FINISHED"
    assert [child.info.status for child in children] == ["FINISHED"] * 3
    for child in children:
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert study.steps(child.info.run_id) == [64 * epoch for epoch in range(1, 7)], "each epoch once"
    assert {child.data.params["model.steps"] for child in children} == {"4", "5", "6"}

    # It is over: the same command is a new search.
    assert not any("goes on" in line for line in until(study.start(), lambda line: "starts" in line))


@pytest.mark.slow
def test_trials_of_two_workers_take_turns_on_two_cpus(tmp_path: Path):
    """Two at once would wait for each other for ever. Their settings are Optuna's choice."""
    space = {"model.steps": [2, 3], "train.learning_rate": {"low": 0.0001, "high": 0.01, "log": True}}
    study = Study(tmp_path, space, 64, trials=2, epochs=2, workers=2, minutes=8)
    try:
        code, text = study.run()
    finally:
        study.end()
    assert code == 0, text
    assert "2 trials by Optuna, " in text
    rows = study.trials()
    assert len(rows) == 2
    assert {row["status"] for row in rows} <= {"finished", "asha"}
    assert rows[0]["epochs"] == "2"
    assert all(float(row["bound"]) > 0 for row in rows)
    (parent,), children = study.runs()
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 3
    assert all(child.data.params["train.workers"] == "2" for child in children)
    stopped = [child for child, row in zip(children, rows, strict=True) if row["status"] == "asha"]
    assert all(child.data.tags["seqgen.stopped_by"] == "asha" for child in stopped)
