"""What tests of tracking share: a driver as a process, what the server has of a run, steps that are logged."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from mlflow.entities import Run

from pipelines.tracking import runs
from tests.finished_run import outside

# A driver as `train` is one: it opens its run, tells, waits for a line, logs 50 steps, tells, and waits again.
DRIVER = """
import sys
from pathlib import Path
from pipelines.recipes import load_recipe
from pipelines.tracking import runs
from seqgen.data.manifest import read_manifest

run_id = runs.open_run(load_recipe(sys.argv[1]), read_manifest(Path(sys.argv[2])))
print(run_id, flush=True)
sys.stdin.readline()
log = runs.MetricLog(runs.tracking_uri(), run_id)
for step in range(1, 51):
    log.log({"a": float(step)}, step)
print("logged", flush=True)
sys.stdin.readline()
log.close(5)
runs.attach(run_id, Path(sys.argv[1]), "train")
runs.close_run(run_id, "FINISHED")
"""


class Driver:
    """DRIVER as a process, whose run is open; `go` lets it take its next step."""

    def __init__(self, files: tuple[Path, Path], uri: str, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, *map(str, files)],
            env=outside(MLFLOW_TRACKING_URI=uri, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0", **variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []
        self.run_id = self.hear()

    def hear(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate()[1])
        self.said.append(line)
        return line.strip()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def end(self) -> str:
        """All that it printed."""
        out, err = self.process.communicate()
        return "".join([*self.said, out, err])


def steps(run_id: str, key: str = "a") -> list[int]:
    return sorted(metric.step for metric in runs.connect().get_metric_history(run_id, key))


def run_of(run_id: str) -> Run:
    return runs.connect().get_run(run_id)


def log_steps(run_id: str, first: int, last: int, timeout: float = 60) -> bool:
    log = runs.MetricLog(runs.tracking_uri(), run_id)
    for step in range(first, last + 1):
        log.log({"a": float(step)}, step)
    return log.close(timeout)


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll; the test's own time limit ends a wait in vain."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.02)
