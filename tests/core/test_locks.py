"""Locks between processes: who holds one, when it ends, and that a removed one guards nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from seqgen.core.locks import Taken, held, held_directory

ROOT = Path(__file__).parents[2]
UNTIL_INPUT_ENDS = "import sys; sys.stdin.readline()"
HOLDER = f"""
import subprocess, sys
from pathlib import Path
from seqgen.core.locks import held
with held(Path("a.lock")) as descriptor:
    if sys.argv[1] == "with child":
        subprocess.Popen([sys.executable, "-c", {UNTIL_INPUT_ENDS!r}], pass_fds=(descriptor,))
    print("held", flush=True)
    if sys.argv[1] == "alone":
        sys.stdin.readline()
print("let go", flush=True)
sys.stdin.readline()
"""


def holder(directory: Path, how: str) -> subprocess.Popen[str]:
    """Another process that holds a.lock in `directory`: "alone" until it gets a line, or "with child"."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, how],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert heard(process) == "held\n"
    return process


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_the_refused_is_told_who_holds_it_and_the_next_gets_it(tmp_path: Path):
    lock = tmp_path / "a.lock"
    other = holder(tmp_path, "alone")
    with (
        pytest.raises(Taken, match=rf"a\.lock: held by another process \(pid {other.pid} on ") as refused,
        held(lock),
    ):
        pass
    assert refused.value.exit_code == 1
    assert refused.value.holder.startswith(f"pid {other.pid} on ")
    other.communicate()
    with held(lock), pytest.raises(Taken, match=f"pid {os.getpid()} on "), held(lock):
        pass


def test_who_waits_gets_it_when_the_holder_is_killed(tmp_path: Path):
    other = holder(tmp_path, "alone")
    timer = threading.Timer(0.3, other.kill)
    timer.start()
    with held(tmp_path / "a.lock", timeout=120):
        assert other.wait() == -signal.SIGKILL
    timer.join()
    other.communicate()


def test_a_lock_file_that_goes_with_the_lock_keeps_others_out_as_well(tmp_path: Path):
    """Four read, wait and write, five times each: no count is lost, and no file is left."""
    lock, count = tmp_path / "a.lock", tmp_path / "count"
    count.write_text("0")

    def add() -> None:
        for _ in range(5):
            with held(lock, timeout=120, keep=False):
                found = int(count.read_text())
                time.sleep(0.002)
                count.write_text(str(found + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.read_text() == "20"
    assert list(tmp_path.iterdir()) == [count]


@pytest.mark.parametrize("killed", [False, True])
def test_a_child_that_has_the_descriptor_keeps_it_when_its_parent_lets_go(tmp_path: Path, killed: bool):
    lock = tmp_path / "a.lock"
    parent = holder(tmp_path, "with child")
    assert heard(parent) == "let go\n"
    if killed:
        parent.kill()
        parent.wait()
    with pytest.raises(Taken, match=f"pid {parent.pid} on "), held(lock):
        pass
    parent.communicate()  # the child reads the end of its input, and ends
    with held(lock, timeout=120):
        pass


def test_a_lock_that_was_removed_is_a_new_one(tmp_path: Path):
    lock = tmp_path / "locks" / "a.lock"
    with held(lock):
        lock.unlink()
        with held(lock):
            pass


def test_a_link_is_not_followed_and_what_it_leads_to_is_kept(tmp_path: Path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link.lock").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match=r"link\.lock"), held(tmp_path / "link.lock"):
        pass
    assert (tmp_path / "file").read_text() == "kept"


def test_a_directory_is_held_itself_and_stays_as_it_is(tmp_path: Path):
    with held_directory(tmp_path):
        with pytest.raises(Taken), held_directory(tmp_path):
            pass
        assert not list(tmp_path.iterdir())
    with pytest.raises(Taken), held_directory(tmp_path / "absent"):
        pass
