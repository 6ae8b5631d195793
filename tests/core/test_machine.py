"""What a container grants counts, whatever the hardware has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from seqgen.core import machine


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of control groups, with this process in /pod/container."""
    (tmp_path / "own").write_text("1:name=systemd:/other\n0::/pod/container\n")
    (tmp_path / "pod" / "container").mkdir(parents=True)
    monkeypatch.setattr(machine, "_OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(64)))
    return tmp_path


def test_without_limits_it_is_the_hardware(groups: Path):
    (groups / "pod" / "cpu.max").write_text("max 100000\n")
    (groups / "pod" / "memory.max").write_text("max\n")
    assert machine.cores() == 64
    assert machine.memory() > 2**28


@pytest.mark.parametrize(
    ("quota", "expected"), [("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1)]
)
def test_the_lowest_limit_on_the_way_up_holds(groups: Path, quota: str, expected: int):
    (groups / "pod" / "cpu.max").write_text(f"{quota}\n")
    (groups / "pod" / "container" / "cpu.max").write_text("900000 100000\n")
    (groups / "pod" / "container" / "memory.max").write_text("1048576\n")
    assert machine.cores() == expected
    assert machine.memory() == 1048576


def test_without_control_groups_it_is_the_hardware(groups: Path):
    (groups / "own").unlink()
    assert machine.cores() == 64


def test_the_peak_of_memory_stays_when_it_is_freed():
    """In a process of its own, which has not held more before."""
    program = (
        "from seqgen.core.machine import peak_memory\n"
        "before = peak_memory()\n"
        "held = b'x' * 2**27\n"
        "del held\n"
        "print(peak_memory() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 2**26 < int(done.stdout) < 2**28
