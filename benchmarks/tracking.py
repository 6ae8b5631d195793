"""What logging costs a training step, also to a server that takes 5 seconds a call: `python -m benchmarks.tracking`.

Steps of the quickstart's model are timed on the wall's clock without logging, with a real MLflow server that answers
at once, and with the same server behind a proxy that lets every call wait. The three take turns; every step logs as
many metrics as an epoch does. A log is opened before and closed after its turn, which is not timed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import page
from benchmarks.specs import SPECIFICATIONS, workload
from benchmarks.throughput import Mode, training_step
from pipelines.tracking import runs
from tests.fault_proxy import FaultProxy, Slow
from tests.mlflow_server import MlflowServer

MODEL, BATCH = "quickstart", 100
METRICS = 8  # of a step
NONE = "no logging"
_PATIENCE = 300.0  # seconds for a slow server to have everything

Log = Callable[[int], None]
Open = Callable[[], Any]  # a context manager that gives a Log


@contextmanager
def silence() -> Iterator[Log]:
    """Nothing is logged."""
    yield lambda step: None


def logging_to(direct: str, uri: str) -> Open:
    """Logs to a run of its own at `uri`, made at `direct`, another address of the same server."""

    @contextmanager
    def opened() -> Iterator[Log]:
        client = runs.connect(direct)
        log = runs.MetricLog(uri, client.create_run(runs.experiment_id(client)).info.run_id)
        yield lambda step: log.log({f"train/{number}": float(step) for number in range(METRICS)}, step)
        if not log.close(_PATIENCE):
            raise RuntimeError(f"{uri} has not everything after {_PATIENCE:.0f} s")

    return opened


def step_seconds(
    step: Callable[[], object], logs: Mapping[str, Open], steps: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds of a step with its log, by `logs`' names: of each round the median of `steps`; one untimed precedes."""
    order = list(logs.items())
    seconds: dict[str, list[float]] = {name: [] for name in logs}
    for number in range(rounds + 1):
        for name, opened in order:
            with opened() as log:
                taken = []
                for each in range(steps):
                    began = time.perf_counter()
                    step()
                    log(each)
                    taken.append(time.perf_counter() - began)
            if number:
                seconds[name].append(statistics.median(taken))
        order.reverse()
    return seconds


def summary(seconds: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    """Per name the median, seconds, and the median over rounds of its ratio to the same round's without logging."""
    return {
        name: {
            "seconds": statistics.median(values),
            "ratio": statistics.median(one / plain for one, plain in zip(values, seconds[NONE], strict=True)),
        }
        for name, values in seconds.items()
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write the section `tracking` of docs/performance.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracking", description=__doc__)
    parser.add_argument("--delay", type=float, default=5.0, help="seconds that the slow server takes a call")
    parser.add_argument("--steps", type=int, default=20, help="steps of a turn")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each, of which the median is taken")
    options = parser.parse_args(arguments)
    mode = Mode("cpu", "float32", False, threads=1)
    device = mode.enter()
    step = training_step(workload(SPECIFICATIONS[MODEL], BATCH, device), "seqgen", mode)
    slow = f"a server that takes {options.delay:g} s a call"
    with tempfile.TemporaryDirectory() as directory:
        os.environ["SEQGEN_STATE"] = directory
        server = MlflowServer(Path(directory))
        server.start()
        try:
            with FaultProxy(server.port) as proxy:
                proxy.inject(Slow(options.delay), times=None)
                logs = {
                    NONE: silence,
                    "a server that answers at once": logging_to(server.uri, server.uri),
                    slow: logging_to(server.uri, proxy.address),
                }
                seconds = step_seconds(step, logs, options.steps, options.rounds)
        finally:
            server.kill()
    found, machine = summary(seconds), page.machine(device)
    rows = [[name, f"{1e3 * one['seconds']:.2f}", f"{one['ratio']:.3f}"] for name, one in found.items()]
    note = (
        f"* `{page.command()}`: {machine['chip']}, {machine['threads']} thread of {machine['cores']}, torch "
        f"{machine['torch']}, wall time, medians of {options.rounds} turns of {options.steps} steps; {MODEL}, batch "
        f"{BATCH}, {METRICS} metrics logged every step."
    )
    table = page.table(["metrics go to", "a step, ms", "of one without"], rows)
    page.publish(
        "tracking", {"machine": machine, "options": vars(options), "seconds": seconds}, f"{table}\n\n{note}"
    )
    print(f"{table}\n\n{note}")


if __name__ == "__main__":
    page.run(main)
