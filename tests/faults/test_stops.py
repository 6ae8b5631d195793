"""Stops: SIGTERM in every phase of a training ends it with 4 and KILLED, all is saved, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fault_proxy import FaultProxy, Request, Slow
from tests.train_runs import ROOT, assert_complete, in_phase, running, saved, tracked, train, weights

# A plugin that is imported for long.
IMPORTED = """
import time
print("importing", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_04_a_signal_before_there_is_a_run_ends_it_with_4_and_leaves_nothing(
    place: Path, number: signal.Signals
):
    (place / "unhurried_canvas.py").write_text(IMPORTED)
    with running(place) as run:
        run.wait_for("importing")
        run.process.send_signal(number)
        assert run.end() == 4, run.text
    assert run.lines[-1] == f"error: stopped by {number.name}\n"
    assert not (place / ".seqgen").exists()
    assert not (place / "mlflow.db").exists()


def alone(leader: int) -> None:
    """As systemd does with KillMode=mixed, a kubelet, or who stops the verb by its id."""
    os.kill(leader, signal.SIGTERM)


def group(leader: int) -> None:
    """As `kill -- -<group>` does, and as `pipelines.retrain` stops its line."""
    os.killpg(leader, signal.SIGTERM)


def interrupted(leader: int) -> None:
    """Ctrl-C in a terminal: SIGINT to the whole group."""
    os.killpg(leader, signal.SIGINT)


def group_again(leader: int) -> None:
    """As GNU `timeout` does: first the child, then its group; here after a pause, and so certainly two signals."""
    alone(leader)
    time.sleep(0.5)
    group(leader)


def uploading(request: Request) -> bool:
    return request.method == "PUT" and "/step-" in request.path


@pytest.mark.slow
def test_04_a_stop_in_any_phase_is_saved_and_gone_on_with(
    undisturbed: str, place: Path, s3_proxy: FaultProxy
):
    """One run, stopped in one phase after the other, each time gone on with, ends with the bits of one that was not."""
    root = "s3://runs/stops"

    def stopped(reached: Callable[[], bool], stop: Callable[[int], None]) -> str:
        """Start or go on, stop when it is there; the last line. What was saved is whole, and newer than before."""
        with running(place, SEQGEN_STORAGE=root) as run:
            run.wait_until(reached)
            time.sleep(4)  # until the driver has heard of its workers; each phase lasts for ten
            stop(run.process.pid)
            assert run.end() == 4, run.text
        assert [found["status"] for found in tracked(place)] == ["KILLED"]
        return run.lines[-1]

    before = 0
    for phase, stop in (
        ("warm-up", alone),
        ("train", group),
        ("evaluate", interrupted),
        ("save", group_again),
    ):
        in_phase(place, phase, calls=20 if phase == "train" else 2, seconds=10)
        last = stopped((place / f"{phase}-0").exists, stop)
        assert "stopped in epoch" in last, phase
        assert "Go on with: python -m pipelines.train --recipe tiny.yaml" in last
        assert saved(root) > before, phase
        before = saved(root)

    s3_proxy.heal()
    s3_proxy.inject(Slow(3.0), uploading, times=4)
    last = stopped(lambda: any(uploading(request) for request in s3_proxy.requests), alone)
    assert "stopped in epoch" in last
    assert saved(root) > before

    done = train(place, SEQGEN_STORAGE=root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on after epoch" in done.stdout
    assert_complete(place)
    assert weights(place) == undisturbed


# What verbs ask of the tracking server, which answers nothing; one of its calls is stopped by a real signal.
ASKING = """
import os, signal, threading
from pathlib import Path
import mlflow
from pipelines.cli.command import run
from pipelines.cli.signals import raise_on_stop
from pipelines.tracking import runs, server

server._TIMEOUT = 3

def work() -> None:
    raise_on_stop()
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    {call}
    print("went on", flush=True)

run(work, [])
"""
RUN = "0" * 32


@pytest.mark.parametrize(
    "call",
    [
        "runs.connect()",
        "runs.runs_with('tiny', 'loss')",
        f"runs.close_run('{RUN}', 'FINISHED')",
        f"runs.attach('{RUN}', Path('asking.txt'), 'train')",
        f"runs.log_measured('{RUN}', {{'loss': 1.0}}, 1)",
    ],
)
def test_04_no_call_of_the_tracking_server_takes_a_stop_for_an_error(call: str, tmp_path: Path):
    (tmp_path / "asking.txt").write_text("text")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel takes connections, and nobody answers
        done = subprocess.run(
            [sys.executable, "-c", ASKING.format(call=call)],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{silent.getsockname()[1]}",
            },
            capture_output=True,
            text=True,
            timeout=100,
        )
    assert done.returncode == 4, done.stdout + done.stderr
    assert "went on" not in done.stdout
    assert done.stderr.splitlines()[-1] == "error: stopped by SIGTERM"
    kept = tmp_path / f".seqgen/spool/{RUN}/status.json"
    if "close_run" in call:  # the status is no matter of luck
        assert "FINISHED" in json.dumps(json.loads(kept.read_text()))
    else:
        assert not kept.exists()
