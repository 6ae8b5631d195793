"""Faults of a search, on one cluster of two CPUs that outlives its drivers."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray._private import ray_constants
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from pipelines.search.search_space import trial_recipe
from pipelines.search.trial import train_trial
from seqgen.core.machine import cores
from seqgen.data.images import load_split
from seqgen.data.manifest import read_manifest
from seqgen.evaluation.bounds import hold_out, mean_free_energy
from seqgen.models import build
from seqgen.settings import Recipe, build_recipe
from seqgen.training import ProcessGroup
from seqgen.training.checkpoint import load_average
from tests.free_ports import free_ports
from tests.searches import ROOT, Search, until
from tests.tiny_search import TREE

SAVED = "experiment_state-%Y-%m-%d_%H-%M-%S"  # Tune's name of a state
SECONDS = 180  # to wait for what must come: the machine may be busy
# Canvases that fail in training; where memory is only counted, one image at a time, they do not.
FAULTY = """
import os, signal
import torch
from seqgen.models.contracts import Canvas, register

def failing(name):
    def add(fail):
        @register("canvas", name)
        class Failing(Canvas):
            def forward(self, canvas, written):
                written = canvas + written
                return fail(written) if torch.is_grad_enabled() and len(written) > 1 else written
    return add

@failing("crashing")
def crash(canvas):
    os.kill(os.getpid(), signal.SIGKILL)

@failing("hungry")
def take_a_pebibyte(canvas):
    return canvas + torch.empty(2**50, dtype=torch.uint8).sum()

@failing("poisoned")
def poison(canvas):
    return canvas * torch.nan
"""


@dataclass(frozen=True)
class Cpus:
    """The cluster: its address, and what its workers and drivers find code by."""

    address: str
    path: str

    def environment(self) -> dict[str, str]:
        patience = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300"}
        return {"RAY_ADDRESS": self.address, "PYTHONPATH": self.path, **patience}


@pytest.fixture(scope="module")
def two_cpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cpus]:
    """A cluster that has two CPUs, whatever this machine has."""
    plugins = tmp_path_factory.mktemp("plugins")
    (plugins / "faulty.py").write_text(FAULTY)
    (port,) = free_ports(1)
    with pytest.MonkeyPatch.context() as patch:
        # As `connected` has it: where its actors ask whether a training still lives, and where workers find the code.
        patch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{port}")
        patch.setenv("PYTHONPATH", f"{ROOT}:{plugins}")
        patch.setattr(ray_constants, "RAY_DASHBOARD_STARTUP_TIMEOUT_S", 600)
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 2, "num_gpus": 0, "include_dashboard": True, "dashboard_port": port},
        )
        yield Cpus(cluster.address, f"{ROOT}:{plugins}")
        cluster.shutdown()


def settled(condition: Callable[[], bool]) -> bool:
    """Whether what is waited for comes."""
    for _ in range(SECONDS * 5):
        if condition():
            return True
        time.sleep(0.2)
    return False


def processes(*names: str) -> list[psutil.Process]:
    """The cluster's processes in which actors of these names work."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(f"ray::{name}" in " ".join(process.cmdline()) for name in names):
                found.append(process)
    return found


# 46: a search that has no room


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "search.space={model.steps: [2, 0]}"), "model.steps=0"),
        (("--set", "search.workers=512", "--set", "train.batch=512"), f"this machine has {cores()} CPUs"),
        (("--set", "search.train_images=8"), "train.batch=16 exceeds the 8 images"),
        (("--set", "data.binarise=threshold"), "other data settings"),
    ],
)
def test_46_bad_input_ends_with_2_before_anything_starts(
    tmp_path: Path, arguments: tuple[str, ...], message: str
):
    code, text = Search(tmp_path, {"model.steps": [1, 2]}, 512).run(*arguments)
    assert (code, text.count("\n")) == (2, 1), text
    assert message in text
    assert not (tmp_path / "artifacts/tiny/search").exists()
    assert not (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / ".seqgen/ray").exists()


@pytest.mark.slow
def test_46_a_trial_larger_than_the_cluster_ends_with_2_and_none_waits(tmp_path: Path, two_cpus: Cpus):
    searched = Search(tmp_path, {"model.steps": [1, 2]}, 64, workers=4)
    with contextlib.closing(searched):
        code, text = searched.run(**two_cpus.environment())
    assert code == 2, text
    assert "search.workers=4: the Ray cluster has 2 CPUs" in text
    assert "starts" not in text
    assert not (tmp_path / "artifacts/tiny/search").exists()


@pytest.mark.slow
def test_46_trials_that_have_room_one_by_one_take_turns(tmp_path: Path, two_cpus: Cpus):
    """Two at once would wait for each other for ever. Their settings are Optuna's choice."""
    space = {"model.steps": [2, 3], "train.learning_rate": {"low": 0.0001, "high": 0.01, "log": True}}
    searched = Search(tmp_path, space, 64, trials=2, epochs=2, workers=2, minutes=8)
    with contextlib.closing(searched):
        code, text = searched.run(**two_cpus.environment())
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
    best = searched.best()
    assert measured_again(searched, trial_recipe(recipe_of(searched), best["settings"])) == best["objective"]


# 47: trials that fail


PLUGIN = ("--set", "model.plugins=[faulty]")


def canvases(where: Path, *kinds: str) -> Search:
    """A search over canvases, of which those in `FAULTY` fail."""
    return Search(
        where, {"model.canvas": list(kinds)}, 64,
        trials=len(kinds), epochs=2, grace_epochs=2, minutes=10,
    )  # fmt: skip


@pytest.fixture(scope="module")
def survived(tmp_path_factory: pytest.TempPathFactory, two_cpus: Cpus) -> tuple[Search, str]:
    """A search of which one trial crashes, one runs out of memory, one computes NaN, and what it printed."""
    searched = canvases(tmp_path_factory.mktemp("survived"), "crashing", "hungry", "poisoned", "additive")
    with contextlib.closing(searched):
        code, text = searched.run(*PLUGIN, **two_cpus.environment())
    assert code == 0, text
    return searched, text


@pytest.mark.slow
def test_47_a_trial_that_crashes_starves_or_computes_nan_is_failed_and_the_search_goes_on(
    survived: tuple[Search, str],
):
    searched, text = survived
    ended = {row["model.canvas"]: row["status"] for row in searched.trials()}
    assert ended == {"crashing": "failed", "hungry": "failed", "poisoned": "failed", "additive": "finished"}
    reasons = {
        kind: next(
            line for line in text.splitlines() if f"model.canvas={kind}" in line and "failed: " in line
        )
        for kind in ("crashing", "hungry", "poisoned")
    }
    assert "died" in reasons["crashing"]
    assert "can't allocate memory" in reasons["hungry"]
    assert "not finite" in reasons["poisoned"]
    best = searched.best()
    assert (best["settings"]["model.canvas"], best["trials"], best["failed"]) == ("additive", 4, 3)
    (parent,), children = searched.runs()
    assert parent.info.status == "FINISHED"
    by_canvas = {child.data.params["model.canvas"]: child.info.status for child in children}
    assert by_canvas == {
        "crashing": "FAILED", "hungry": "FAILED", "poisoned": "FAILED", "additive": "FINISHED"
    }  # fmt: skip


@pytest.mark.slow
def test_47_a_search_whose_trials_all_fail_ends_with_1_and_leaves_no_best(tmp_path: Path, two_cpus: Cpus):
    searched = canvases(tmp_path, "hungry", "poisoned")
    with contextlib.closing(searched):
        code, text = searched.run(*PLUGIN, **two_cpus.environment())
    assert code == 1, text
    assert "no trial gave a bound: 2 of 2 failed (reasons above)" in text
    assert "Traceback" not in text
    assert not (tmp_path / "artifacts/tiny/search").exists()
    (parent,), _ = searched.runs()
    assert parent.info.status == "FAILED"


# 48: what a trial that ASHA stopped had


def created() -> set[str]:
    """The placement groups that hold something."""
    return {name for name, group in placement_group_table().items() if group["state"] != "REMOVED"}


@pytest.mark.slow
def test_48_a_stopped_trial_s_processes_and_placement_groups_are_given_back(tmp_path: Path, two_cpus: Cpus):
    actors = ("ImplicitFunc", "RayTrainWorker", "TrainController")
    with contextlib.ExitStack() as stack:
        ray.init(two_cpus.address, log_to_driver=False, logging_level="error")
        stack.callback(ray.shutdown)
        assert settled(lambda: not created())
        # The second learns nothing and is stopped after its first epoch; the third needs what it had.
        space = {"train.learning_rate": [0.01, 1e-9, 0.003]}
        searched = Search(tmp_path, space, 64, trials=3, epochs=3, workers=2, minutes=15)
        stack.enter_context(contextlib.closing(searched))
        driver = searched.start(**two_cpus.environment())
        until(driver, lambda line: line.startswith("trial 2/3") and "starts" in line)
        assert settled(lambda: len(processes("RayTrainWorker")) == 2), "a worker a CPU"
        theirs, groups = processes(*actors), created()
        assert groups
        until(driver, lambda line: line.startswith("trial 2/3") and "stopped by ASHA" in line)
        assert settled(lambda: not any(process.is_running() for process in theirs))
        assert settled(lambda: not groups & created())
        text, _ = driver.communicate(timeout=SECONDS * 3)
        assert driver.returncode == 0, text
        assert [row["status"] for row in searched.trials()][1] == "asha"

        # And nothing is left when the search has ended, though the cluster goes on.
        assert settled(lambda: not processes(*actors))
        assert settled(lambda: not created())
        assert settled(lambda: ray.available_resources().get("CPU") == 2)


# 49: a driver that dies


@pytest.fixture
def long_search(tmp_path: Path) -> Iterator[Search]:
    # A trial must outlast the time between two of Tune's saved states, or a killed search goes on from none.
    searched = Search(tmp_path, {"model.steps": [4, 5, 6]}, 1024, trials=3, epochs=6, grace_epochs=6)
    with contextlib.closing(searched):
        yield searched


def newest_state(searched: Search) -> Path:
    """The file with what Tune saved last."""
    return max((searched.where / ".seqgen/ray").glob("*/experiment_state*.json"), key=lambda path: path.name)


def ended_trials(searched: Search) -> int:
    """How many trials had ended when Tune last saved its state."""
    with contextlib.suppress(ValueError):  # it is being written
        state = json.loads(newest_state(searched).read_text())
        trials = [json.loads(trial) for trial, _ in state["trial_data"]]
        return sum(trial["status"] == "TERMINATED" for trial in trials)
    return 0


@pytest.mark.slow
def test_49_a_search_whose_driver_dies_goes_on_with_what_is_unfinished_to_the_same_best(
    long_search: Search, two_cpus: Cpus
):
    """A trial is killed, it is asked to stop, its driver is killed; then the same command ends it."""
    searched, environment = long_search, two_cpus.environment()

    # A killed trial is a failed one, and the search goes on.
    driver = searched.start(**environment)
    until(driver, lambda line: "epoch 1/6" in line)
    processes("ImplicitFunc")[0].kill()
    text = until(driver, lambda line: line.startswith("trial ") and "failed: " in line)
    failed = text.splitlines()[-1][: len("trial 1/3")]
    assert "died" in text.splitlines()[-1], "the reason"
    until(driver, lambda line: line.startswith("trial 3/3"))

    # SIGTERM: state saved, exit 4, statuses right.
    driver.send_signal(signal.SIGTERM)
    text, _ = driver.communicate(timeout=SECONDS)
    assert driver.returncode == 4, text
    assert "run the same command again" in text
    (parent,), children = searched.runs()
    assert parent.info.status == "KILLED"
    ended = {f"{child.info.run_name}/3": child.info.status for child in children}
    assert ended.pop(failed) == "FAILED"
    assert "RUNNING" not in ended.values()
    assert not (searched.where / "artifacts/tiny/search").exists()

    # SIGKILL of the driver after a trial has ended: its trials end with it. What it went on from is the state before
    # the newest, which is half-written.
    whole = newest_state(searched)
    newer = datetime.strptime(whole.stem, SAVED) + timedelta(seconds=1)
    half = whole.with_name(f"{newer.strftime(SAVED)}.json")
    half.write_text(whole.read_text()[: whole.stat().st_size // 2])
    driver = searched.start(**environment)
    stopped = until(driver, lambda line: "epoch 6/6" in line)
    assert f"set aside: {half.name}; the search goes on from {whole.name}" in stopped
    assert half.with_name(f"{half.name}.damaged").exists()
    finished = stopped.splitlines()[-1][: len("trial 1/3")]
    assert settled(lambda: ended_trials(searched) > 0)
    driver.kill()
    driver.wait()
    assert settled(lambda: not processes("ImplicitFunc"))

    # The same command: what had ended is not trained again.
    code, text = searched.run(**environment)
    assert code == 0, text
    # After the kill only what Tune's last saved state knew of; after the stop, which saves it, all.
    assert "goes on, was at epoch" in stopped + text
    again = [line for line in text.splitlines() if line.startswith(finished)]
    assert not [
        line for line in again if "starts" in line or any(f"epoch {n}/6" in line for n in range(1, 6))
    ]
    rows = searched.trials()
    assert [(row["model.steps"], row["epochs"], row["status"]) for row in rows] == [
        (steps, "6", "finished") for steps in "456"
    ]
    best = searched.best()
    winner = min(rows, key=lambda row: float(row["bound"]))
    assert best["settings"] == {"model.steps": int(winner["model.steps"])}
    assert (best["trials"], best["failed"]) == (3, 0)
    assert best["objective"] == undisturbed(searched, best["settings"]), "to the last bit"
    (parent,), children = searched.runs()
    assert parent.info.status == "FINISHED"
    assert [child.info.status for child in children] == ["FINISHED"] * 3
    for child in children:
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert searched.steps(child.info.run_id) == [64 * epoch for epoch in range(1, 7)], "each epoch once"
    assert {child.data.params["model.steps"] for child in children} == {"4", "5", "6"}

    # It is over: the same command is a new search.
    another = searched.start(**environment)
    assert "goes on" not in until(another, lambda line: "starts" in line)


def recipe_of(searched: Search) -> Recipe:
    """The recipe that is searched."""
    asked = TREE["search"] | searched.asked
    return build_recipe({"name": "tiny", **TREE, "search": asked}, "tiny")


def undisturbed(searched: Search, settings: dict[str, Any]) -> float:
    """The bound of a trial that is trained here, from the start to the end."""
    recipe = recipe_of(searched)
    rows: list[dict[str, Any]] = []
    shards = str(searched.where / "artifacts/tiny/shards")
    train_trial(
        settings, recipe.given(), shards, ProcessGroup(), None, lambda row, directory: rows.append(row)
    )
    return rows[-1][recipe.data.held_out_metric]


# 50: the best checkpoint is what it is said to be


def measured_again(searched: Search, recipe: Recipe) -> float:
    """The bound of the best trial's checkpoint; `recipe` is that trial's."""
    best, shards = searched.best(), searched.where / "artifacts/tiny/shards"
    assert best["metric"] == recipe.data.held_out_metric
    manifest = read_manifest(shards)
    model = build(recipe.model, manifest.height, manifest.width, manifest.mean)
    load_average(Path(best["checkpoint"]), model)
    seed = recipe.train.seed
    held_out = hold_out(load_split(shards, "valid"), recipe.data, conditional=False, seed=seed)
    return mean_free_energy(model, held_out, seed, ProcessGroup())


@pytest.mark.slow
def test_50_the_best_checkpoint_is_there_and_its_metric_measured_again_is_the_stored_one(
    survived: tuple[Search, str],
):
    searched, _ = survived
    best, recipe = searched.best(), build_recipe({"name": "tiny", **TREE, "search": None}, "tiny")
    assert best["settings"]["model.canvas"] == recipe.model.canvas
    assert measured_again(searched, recipe) == best["objective"]
