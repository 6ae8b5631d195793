"""SIGTERM and Ctrl-C: the first one stops in order, with code 4, and a later one at once."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STOPPED = """
import contextlib, os, signal, subprocess, time
from pipelines.cli import signals
from seqgen.core.errors import StoppedEarly
from pipelines.cli.signals import check_stop, on_stop, raise_on_stop, stop_afterwards
from pipelines.cli.command import run

def stop(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.1)

def stop_later() -> None:
    signals._ONE_STOP = 0.0  # as if two seconds had passed
    stop()

def work() -> None:
    raise_on_stop()
    {body}

run(work, [])
"""


def stopped(body: str) -> tuple[int, str, str]:
    """How a verb with this body ends: its code, standard output and standard error."""
    script = STOPPED.format(body="\n    ".join(body.strip().splitlines()))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=50, cwd=ROOT
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_is_an_exception_that_ends_with_code_4(name: str):
    body = f"""
try:
    stop(signal.{name})
finally:
    print("in order", flush=True)
"""
    assert stopped(body) == (4, "in order\n", f"error: stopped by {name}\n")


def test_an_exception_that_native_code_swallowed_is_raised_by_the_next_check():
    body = """
with contextlib.suppress(StoppedEarly):
    stop()
print("swallowed", flush=True)
check_stop()
"""
    assert stopped(body) == (4, "swallowed\n", "error: stopped by SIGTERM\n")


def test_who_handles_errors_takes_no_stop_for_one():
    body = """
try:
    stop()
except Exception:
    print("taken for an error", flush=True)
"""
    assert stopped(body) == (4, "", "error: stopped by SIGTERM\n")


@pytest.mark.parametrize("end", ["pass", "raise ValueError"])
def test_what_should_be_whole_is_and_the_stop_comes_afterwards(end: str):
    body = f"""
with stop_afterwards():
    stop()
    print("whole", flush=True)
    {end}
print("too late", flush=True)
"""
    code, out, error = stopped(body)
    assert (code, out, error) == (4, "whole\n", "error: stopped by SIGTERM\n")


def test_the_second_signal_does_not_wait_for_what_should_be_whole():
    body = """
with stop_afterwards():
    stop()
    stop_later()
    print("too late", flush=True)
"""
    assert stopped(body) == (-15, "", "")


@pytest.mark.parametrize("waited_for", ["contextlib.nullcontext()", "stop_afterwards()"])
def test_what_comes_soon_after_a_signal_is_the_same_stop(waited_for: str):
    body = f"""
try:
    with {waited_for}:
        stop()
finally:
    stop(signal.SIGINT)
    stop()
    print("in order", flush=True)
"""
    assert stopped(body) == (4, "in order\n", "error: stopped by SIGTERM\n")


def test_the_end_of_dvc_is_no_second_stop():
    body = """
dvc = subprocess.Popen(["sleep", "600"])
ended = os.pidfd_open(dvc.pid)
try:
    stop()
finally:
    signals._ONE_STOP = 0.0  # however long it takes to end
    dvc.kill()
    signals._stop_after(ended)
    time.sleep(0.1)
    print("in order", flush=True)
"""
    assert stopped(body) == (4, "in order\n", "error: stopped by SIGTERM\n")


def test_a_later_signal_ends_at_once():
    body = """
try:
    stop()
finally:
    stop_later()
    print("too late", flush=True)
"""
    assert stopped(body) == (-15, "", "")


def test_a_signal_may_call_instead_and_then_the_old_way_is_back():
    body = """
with on_stop(lambda: print("asked", flush=True)):
    stop()
    print("goes on", flush=True)
stop_later()
"""
    assert stopped(body) == (4, "asked\ngoes on\n", "error: stopped by SIGTERM\n")


def test_a_second_signal_to_what_was_asked_ends_at_once():
    body = """
with on_stop(lambda: print("asked", flush=True)):
    stop()
    stop_later()
    print("too late", flush=True)
"""
    assert stopped(body) == (-15, "asked\n", "")


def test_handlers_are_installed_here_alone():
    installing = [
        str(path.relative_to(ROOT))
        for package in ("seqgen", "data_prep", "pipelines")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"\bsignal\.signal\(", path.read_text())
    ]
    assert installing == ["pipelines/cli/signals.py"]
