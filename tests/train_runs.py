"""Real trainings of the smallest recipe, as processes of the train verb: started, watched, killed, looked at after."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from pipelines.artifacts.gallery import read_gallery
from pipelines.cluster.checkpoints import Checkpoints
from pipelines.cluster.killing import LocalProcesses
from pipelines.storage import open_store
from seqgen.core.files import file_sha256
from seqgen.core.machine import cores
from tests.sets import write_digits

ROOT = Path(__file__).parents[1]
EPOCHS = 60
WORKERS = min(2, cores())  # each needs a CPU of its own
RECIPE = f"""
name: tiny
description: the smallest that is one
data: {{source: mnist-5k, size: 28, binarise: dynamic}}
model:
  {{steps: 2, hidden: 16, latents: 4, attention: gaussian, read_size: 4, write_size: 4, canvas: additive,
    canvas_channels: 1, observation: identity, posterior_hidden: 16}}
train: {{epochs: {EPOCHS}, batch: 16, learning_rate: 3e-3, workers: {WORKERS}, ema: 0.9, gallery_every: 25}}
evaluate: {{}}
register: {{name: tiny}}
"""


# However fast the machine is, an epoch takes a tenth of a second: a training is long enough to be disturbed.
PLUGIN = """
import time
from seqgen.models.canvases import AdditiveCanvas
from seqgen.models.contracts import register

@register("canvas", "unhurried")
class Unhurried(AdditiveCanvas):
    def forward(self, canvas, written):
        time.sleep(0.01)
        return super().forward(canvas, written)
"""


# The same canvas, which reaches, once, the phase that the file `phase` names, on every rank: it writes its pid and rank
# down, and waits there as long as `phase` says.
PHASES = """
import os
import pathlib
import time
import torch
from seqgen.models.canvases import AdditiveCanvas
from seqgen.models.contracts import register

HERE = pathlib.Path(__file__).parent
WANTED, CALLS, RANK, SECONDS = (HERE / "phase").read_text().split()

def reach(phase):
    if phase != WANTED or not torch.distributed.is_initialized():
        return
    rank = torch.distributed.get_rank()
    there = HERE / f"{phase}-{rank}"
    if RANK in ("any", str(rank)) and not there.exists():
        fresh = HERE / f"{phase}-{rank}.new"
        fresh.write_text(str(os.getpid()))
        fresh.rename(there)
        time.sleep(float(SECONDS))

@register("canvas", "unhurried")
class Unhurried(AdditiveCanvas):
    def __init__(self, settings, sizes):
        super().__init__(settings, sizes)
        self.calls = 0
        self.register_state_dict_pre_hook(lambda *_: reach("save"))
        reach("warm-up")

    def forward(self, canvas, written):
        self.calls += 1
        if self.calls > int(CALLS):
            reach("train" if self.training else "evaluate")
        time.sleep(0.01)
        return super().forward(canvas, written)
"""


def prepare(place: Path) -> Path:
    (place / "tiny.yaml").write_text(RECIPE)
    write_digits(place / "artifacts/tiny/shards")
    return place


def prepare_unhurried(place: Path) -> Path:
    prepare(place)
    (place / "unhurried_canvas.py").write_text(PLUGIN)
    (place / "tiny.yaml").write_text(with_canvas("unhurried"))
    return place


def in_phase(place: Path, phase: str, calls: int = 0, rank: int | str = "any", seconds: float = 3) -> None:
    """Let the trainings of `prepare_unhurried` write a file <phase>-<rank> when they come to this phase, and wait.

    phase: warm-up, train or evaluate (in either after so many `calls` of the canvas, two a step), save.
    """
    (place / "unhurried_canvas.py").write_text(PHASES)
    (place / "phase").write_text(f"{phase} {calls} {rank} {seconds}")


def with_canvas(kind: str) -> str:
    """The recipe with a canvas that the module <kind>_canvas registers."""
    return RECIPE.replace("canvas: additive", f"canvas: {kind}, plugins: [{kind}_canvas]")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.train", "--recipe", "tiny.yaml", *arguments]


def environment(place: Path) -> dict[str, str]:
    wanted = {"PYTHONPATH": f"{ROOT}{os.pathsep}{place}", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300"}
    unwanted = ("SEQGEN_ARTIFACTS", "SEQGEN_STORAGE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS")
    return {key: value for key, value in os.environ.items() if key not in unwanted} | wanted


def train(place: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=place, env=environment(place) | variables, capture_output=True, text=True
    )


class Run:
    """A training process, which leads a process group, as a shell's job does; its lines are read as they come."""

    def __init__(self, place: Path, *arguments: str, **variables: str) -> None:
        self.process = subprocess.Popen(
            command(*arguments),
            cwd=place,
            env=environment(place) | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
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

    def wait_until(self, found: Callable[[], bool]) -> None:
        """Wait until it is so; its lines are read later."""
        while not found():
            assert self.process.poll() is None, f"ended before: {''.join(self.process.stdout or ())}"
            time.sleep(0.05)

    def end(self) -> int:
        """Read the rest; the exit code."""
        assert self.process.stdout is not None
        self.lines += self.process.stdout
        return self.process.wait()

    def kill(self) -> None:
        """SIGKILL to the driver; returns when its workers, which notice that, are gone, too."""
        workers = self.workers()
        self.process.kill()
        self.end()
        psutil.wait_procs(workers, timeout=120)

    def workers(self) -> list[psutil.Process]:
        """The training workers of this run."""
        found = []
        for worker in LocalProcesses(self.process.pid).workers():
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                found.append(psutil.Process(worker.pid))
        return found

    @property
    def text(self) -> str:
        return "".join(self.lines)


@contextlib.contextmanager
def running(place: Path, *arguments: str, **variables: str) -> Iterator[Run]:
    """A run that is killed at the end, with what it started, if it has not ended by itself."""
    run = Run(place, *arguments, **variables)
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
    experiment = client.get_experiment_by_name("seqgen")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
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


def saved(root: str) -> int:
    """The step of the newest checkpoint of the one run in the storage `root`, which is whole; 0: there is none."""
    store = open_store(root)
    names = {key.partition("/")[0] for key in store.list("tiny-")}
    if not names:
        return 0
    (name,) = names
    said: list[str] = []
    step = Checkpoints(store, name).newest_whole(said.append)
    assert said == []
    return step or 0


def assert_complete(place: Path) -> None:
    """One finished run with every metric once an epoch, and whole products."""
    (run,) = tracked(place)
    assert run["status"] == "FINISHED"
    every = [4 * epoch for epoch in range(1, EPOCHS + 1)]
    assert {tuple(sorted(steps)) for steps in run["steps"].values()} == {tuple(every)}
    products = place / "artifacts/tiny/train"
    assert {path.name for path in products.iterdir()} == {
        "model",
        "gallery.npz",
        "history.csv",
        "manifest.json",
        "recipe.json",
        "run.json",
    }
    told = json.loads((products / "run.json").read_text())
    assert (told["run_id"], told["epochs"], told["steps"]) == (run["id"], EPOCHS, 4 * EPOCHS)
    with (products / "history.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {"epoch", "step", "train/free_energy"} < rows[0].keys()
    assert [int(row["epoch"]) for row in rows] == list(range(1, EPOCHS + 1))
    bounds = {int(row["epoch"]): float(row["valid/dynamic/free_energy"]) for row in rows}
    assert told["best_epoch"] == min(bounds, key=lambda epoch: bounds[epoch])
    assert list(read_gallery(products / "gallery.npz").drawn) == [25, 50, EPOCHS]
    assert not [path for path in products.parent.iterdir() if path.name.startswith(".")]


def weights(place: Path) -> str:
    return file_sha256(place / "artifacts/tiny/train/model/weights.safetensors")
