"""What it costs to start: help, a line with nothing to do, a training's first step: `python -m benchmarks.startup`.

CPU time is that of a command and of what it waited for. The training is the quickstart's on two workers, in a
directory of its own; its phases are wall time, read from its lines and from the processes it has.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
import yaml

from benchmarks import page
from pipelines.artifacts.history import FILE_NAME, read_history
from pipelines.cli.verbs import VERBS

_ROOT = Path(__file__).parent.parent
_SAMPLE = 0.05  # seconds between two looks at a training's processes
_RECIPE = "quickstart"
_PYTHON = [sys.executable, "-m"]

# A training's moments in their order; between two of them lies the phase named at the second.
PHASES = {
    "process": "",
    "ray": "driver: imports, checks, tracking server",
    "asked": "Ray's own processes",
    "worker": "Ray Train's controller, placement",
    "step": "workers: imports, process group, decoding, model",
}

# What a worker does before its first step, in its order; CPU time of each in one fresh process.
_PARTS = {
    "torch": "import torch",
    "Ray": "import ray",
    "Ray Train": "import ray.train.torch",
    "seqgen": "import pipelines.cluster.worker, seqgen.data, seqgen.models, seqgen.training",
    "decoding": "[seqgen.data.load_split(shards, split) for split in ('train', 'valid')]",
    "torch._dynamo, which an optimiser imports": "torch.optim.Adam([torch.zeros(1, requires_grad=True)])",
}
_TIMED = """
import json, sys, time
from pathlib import Path
shards, spent = Path(sys.argv[1]), {}
for name, statement in json.loads(sys.argv[2]).items():
    began = time.process_time()
    exec(statement)
    spent[name] = time.process_time() - began
print(json.dumps(spent))
"""

Row = dict[str, Any]


class Spent(NamedTuple):
    """Seconds of one command, and what it printed."""

    cpu: float
    wall: float
    output: str


def spend(command: Sequence[str | Path], cwd: Path = _ROOT, env: Mapping[str, str] | None = None) -> Spent:
    """Run `command`. Raises RuntimeError with its output if it fails."""
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        child = subprocess.Popen(command, cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode(errors="replace")
    if child.returncode:
        raise RuntimeError(f"{command} ended with code {child.returncode}: {text}")
    return Spent(usage.ru_utime + usage.ru_stime, wall, text)


def medians(commands: Mapping[str, Sequence[str | Path]], rounds: int) -> dict[str, Row]:
    """The medians of every command's CPU and wall seconds; they take turns."""
    spent: dict[str, list[Spent]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            spent[name].append(spend(command))
    return {
        name: {key: statistics.median(getattr(one, key) for one in all_) for key in ("cpu", "wall")}
        for name, all_ in spent.items()
    }


def up_to_date_project(directory: Path) -> Path:
    """A copy of the line in `directory` for which DVC has everything recorded, with products in name only."""
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(_ROOT / name, directory)
    for package in ("data_prep", "pipelines", "seqgen"):
        shutil.copytree(_ROOT / package, directory / package, ignore=shutil.ignore_patterns("__pycache__"))
    (directory / ".dvc").mkdir()
    shutil.copy(_ROOT / ".dvc" / "config", directory / ".dvc")
    stages = yaml.safe_load((directory / "dvc.yaml").read_text())["stages"].values()
    for recipe in yaml.safe_load((directory / "params.yaml").read_text())["recipes"]:
        for stage in stages:
            for product in [*stage.get("outs", ()), *stage.get("metrics", ()), *stage.get("plots", ())]:
                name = product if isinstance(product, str) else next(iter(product))
                _stand_in(directory / name.replace("${item.recipe}", recipe))
    spend(["git", "init", "--quiet"], directory)
    spend([*_PYTHON, "dvc", "commit", "--force"], directory)
    return directory


def _stand_in(product: Path) -> None:
    """A small file for a file, a directory with one for a directory."""
    path = product if product.suffix else product / "best.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"settings": {}}')


def idle_line(project: Path, rounds: int) -> Row:
    """`dvc repro` where nothing is to do: its medians, those of `dvc status`, and how many stage commands ran."""
    called = project / "called"
    called.mkdir(exist_ok=True)
    stub = called / "python"  # stands where the stages' `python` is looked for
    stub.write_text(f'#!/bin/sh\necho "$@" >> {called}/commands\n')
    stub.chmod(0o755)
    env = {**os.environ, "PATH": f"{called}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    row: Row = {}
    for verb in ("repro", "status"):
        spent = [spend([*_PYTHON, "dvc", verb], project, env) for _ in range(rounds)]
        row[verb] = {key: statistics.median(getattr(one, key) for one in spent) for key in ("cpu", "wall")}
        row[verb]["says"] = spent[-1].output.splitlines()[-1]
    commands = called / "commands"
    row["stage_commands"] = len(commands.read_text().splitlines()) if commands.exists() else 0
    return row


class Family(threading.Thread):
    """Looks at a process and its descendants until it ends: when each began, what it was, the CPU time of all."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self.began: dict[int, float] = {}
        self.titles: dict[int, str] = {}
        self.cpu = [(0.0, 0.0)]  # when looked (seconds since 1970), CPU seconds of all until then

    def run(self) -> None:
        """Look every 50 ms."""
        cpu: dict[int, float] = {}
        while self._root.is_running() and self._root.status() != psutil.STATUS_ZOMBIE:
            for process in self._members():
                try:
                    with process.oneshot():
                        self.began[process.pid] = process.create_time()
                        self.titles[process.pid] = " ".join(process.cmdline())[:200]
                        cpu[process.pid] = sum(process.cpu_times()[:2])
                except psutil.Error:
                    continue
            self.cpu.append((time.time(), sum(cpu.values())))
            time.sleep(_SAMPLE)

    def _members(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return []

    def first(self, title: str) -> float:
        """When the first process that was last called so began (seconds since 1970)."""
        return min(self.began[pid] for pid, text in self.titles.items() if title in text)


def trained(directory: Path, seed: int) -> Row:
    """One training in `directory`: seconds of its phases, CPU time to the first step, processes, its end."""
    command = [*_PYTHON, "pipelines.train", "--recipe", _RECIPE, "--set", "train.epochs=1", "--workers", "2"]
    moments, lines = {"process": time.time()}, []
    child = subprocess.Popen(
        [*command, "--set", f"train.seed={seed}"],
        cwd=directory,
        env=_alone(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    family = Family(child.pid)
    family.start()
    assert child.stdout is not None
    for line in child.stdout:
        lines.append(line)
        if line.startswith("starting "):
            moments["asked"] = time.time()
        elif line.startswith("epoch "):
            moments["epoch"] = time.time()
    family.join()
    if child.wait():
        raise RuntimeError("".join(lines))
    ended = time.time()
    epoch = read_history(directory / "artifacts" / _RECIPE / "train" / FILE_NAME)[0]
    moments["ray"] = family.first("gcs_server")
    moments["worker"] = family.first("RayTrainWorker")
    moments["step"] = moments["epoch"] - epoch["seconds"]
    return {
        "phases": phases(moments),
        "first_step": moments["step"] - moments["process"],
        "end": ended - moments["epoch"],
        "cpu": max(seconds for when, seconds in family.cpu if when <= moments["step"]),
        "processes": len(family.began),
    }


def phases(moments: Mapping[str, float]) -> dict[str, float]:
    """Seconds of each of PHASES from the times of its two moments."""
    names = list(PHASES)
    return {PHASES[name]: moments[name] - moments[before] for before, name in itertools.pairwise(names)}


def trainings(directory: Path, count: int) -> Row:
    """Medians of `count` trainings and of a worker's parts, on the shards that the line's first verbs make."""
    for verb in ("fetch", "shard"):
        spend([*_PYTHON, f"pipelines.{verb}", "--recipe", _RECIPE], directory, _alone())
    rows = [trained(directory, seed) for seed in range(count)]
    shards = str(directory / "artifacts" / _RECIPE / "shards")
    script = [sys.executable, "-c", _TIMED, shards, json.dumps(_PARTS)]
    parts = [json.loads(spend(script, env=_alone()).output.splitlines()[-1]) for _ in range(count)]
    return {
        "runs": rows,
        "phases": {
            name: statistics.median(row["phases"][name] for row in rows) for name in rows[0]["phases"]
        },
        "parts": {name: statistics.median(part[name] for part in parts) for name in _PARTS},
        **{key: statistics.median(row[key] for row in rows) for key in rows[0] if key != "phases"},
    }


def _alone() -> dict[str, str]:
    """The environment without places, servers and clusters of the caller's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SEQGEN_", "MLFLOW_", "RAY_"))}
    return {**kept, "PYTHONPATH": str(_ROOT)}


def bytecode() -> bool:
    """Whether installed packages are compiled; if not, every process of Ray compiles what it imports anew."""
    ray = importlib.util.find_spec("ray")
    assert ray is not None
    assert ray.origin is not None
    return Path(importlib.util.cache_from_source(ray.origin)).exists()


def tables(result: Row) -> str:
    """Commands, then the training, as markdown."""
    bare, helps = result["help"]["python"], result["help"]
    slowest = max((name for name in helps if name.startswith("pipelines.")), key=lambda n: helps[n]["cpu"])
    shown = {
        "`python -c pass`": bare,
        "`seqgen --help`": helps["seqgen"],
        f"the slowest verb's help (`python -m {slowest} --help`)": helps[slowest],
        "`dvc status`, nothing to do": result["dvc"]["status"],
        "`dvc repro`, nothing to do": result["dvc"]["repro"],
    }
    training = result["training"]
    rows = [[name, f"{seconds:.1f}"] for name, seconds in training["phases"].items()]
    rows += [
        ["**to the first step**", f"**{training['first_step']:.1f}**"],
        ["from the last epoch to the end of the command", f"{training['end']:.1f}"],
    ]
    parts = [[name, f"{seconds:.2f}"] for name, seconds in training["parts"].items()]
    commands = [
        [name, f"{row['cpu']:.2f}", f"{row['cpu'] - bare['cpu']:.2f}", f"{row['wall']:.2f}"]
        for name, row in shown.items()
    ]
    return "\n\n".join(
        [
            page.table(["command", "CPU, s", "beyond bare Python", "wall, s"], commands),
            f"Stage commands that the idle `dvc repro` ran: {result['dvc']['stage_commands']}.",
            page.table(["a training on two workers", "wall, s"], rows),
            f"To its first step its {training['processes']:.0f} processes together take {training['cpu']:.0f} s of "
            "CPU time.",
            page.table(["a worker, before its first step", "CPU, s"], parts),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and publish."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=7, help="runs of each command of which the median is taken"
    )
    parser.add_argument("--trainings", type=int, default=3, help="trainings of which the median is taken")
    options = parser.parse_args(arguments)
    commands: dict[str, list[str | Path]] = {
        "python": [sys.executable, "-c", "pass"],
        "seqgen": [Path(sys.executable).with_name("seqgen"), "--help"],
    }
    for verb in VERBS:
        if (_ROOT / "pipelines" / f"{verb}.py").exists():
            commands[f"pipelines.{verb}"] = [*_PYTHON, f"pipelines.{verb}", "--help"]
    with tempfile.TemporaryDirectory(prefix="seqgen-startup-") as scratch:
        project, place = Path(scratch) / "project", Path(scratch) / "training"
        project.mkdir()
        place.mkdir()
        result: Row = {
            "command": page.command(),
            "machine": page.machine(torch.device("cpu")),
            "bytecode": bytecode(),
            "help": medians(commands, options.rounds),
            "dvc": idle_line(up_to_date_project(project), options.rounds),
            "training": trainings(place, options.trainings),
        }
    machine = result["machine"]
    text = (
        f"{tables(result)}\n\n* `{result['command']}`: {machine['chip']}, {machine['cores']} cores, torch "
        f"{machine['torch']}, medians of {options.rounds} (trainings: {options.trainings}); packages "
        f"{'' if result['bytecode'] else 'not '}compiled to bytecode."
    )
    page.publish("startup", result, text)
    print(text)


if __name__ == "__main__":
    main()
