"""A search as a process of its own, and its products."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.sets import write_digits
from tests.tiny_search import TREE

ROOT = Path(__file__).resolve().parents[1]


class Search:
    """A directory with shards, and `python -m pipelines.tune` in it."""

    def __init__(self, where: Path, space: dict[str, Any], images: int, **settings: Any) -> None:
        self.where = where
        self.asked = {"space": space, "train_images": images, **settings}
        tree = {**TREE, "search": {**TREE["search"], **self.asked}}
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
        text, _ = process.communicate(timeout=900)
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
