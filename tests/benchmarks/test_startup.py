"""The start-up benchmark: its arithmetic, that it sees a stage run, and a command that fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import startup


def test_phases_lie_between_their_moments():
    moments = {"process": 100.0, "ray": 103.0, "asked": 110.0, "worker": 114.5, "step": 120.0, "epoch": 125.0}
    assert list(startup.phases(moments).values()) == [3.0, 7.0, 4.5, 5.5]


def test_a_command_that_fails_is_not_a_measurement():
    assert startup.spend([sys.executable, "-c", "print('done')"]).output == "done\n"
    with pytest.raises(RuntimeError, match="code 3: broken"):
        startup.spend([sys.executable, "-c", "print('broken'); raise SystemExit(3)"])


def test_the_descendants_of_a_process_are_seen_with_their_time():
    busy = "sum(range(10**8))"
    command = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    with subprocess.Popen([sys.executable, "-c", command]) as parent:
        family = startup.Family(parent.pid)
        family.start()
        parent.wait()
        family.join()
    (child,) = family.began.keys() - {parent.pid}
    assert family.first(f"-c {busy}") == family.began[child] >= family.began[parent.pid]
    assert family.cpu[-1][1] > 0


@pytest.mark.slow
def test_an_idle_line_runs_nothing_and_a_changed_one_is_seen(tmp_path: Path):
    project = startup.up_to_date_project(tmp_path)
    idle = startup.idle_line(project, rounds=1)
    assert idle["stage_commands"] == 0
    assert "up to date" in idle["repro"]["says"]
    (project / "artifacts/quickstart/report/best.json").unlink()
    assert startup.idle_line(project, rounds=1)["stage_commands"] == 1
