"""Whom a killer chooses, and that a process of this machine is really killed."""

from __future__ import annotations

import subprocess
import sys

from pipelines.cluster.killing import Killer, LocalProcesses, Process


class Listed:
    """Processes that are only listed: whom a killer chooses."""

    driver = 7

    def __init__(self) -> None:
        self.killed: list[Process] = []

    def workers(self) -> list[Process]:
        return [Process(10), Process(11), Process(12)]

    def kill(self, process: Process) -> None:
        self.killed.append(process)


def drawn(seed: int) -> list[list[Process]]:
    killer = Killer(seed)
    return [killer.kill(Listed(), killer.choose(["worker", "all", "driver"])) for _ in range(20)]


def test_the_same_seed_draws_the_same_victims():
    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
    everybody = {tuple(victims) for victims in drawn(3)}
    assert (Process(7),) in everybody
    assert (Process(10), Process(11), Process(12)) in everybody


def test_a_process_is_killed_and_one_that_has_ended_is_no_error():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    found = LocalProcesses(child.pid)
    assert found.workers() == []
    killer = Killer(0)
    assert killer.kill(found, "worker") == []
    assert killer.kill(found, "driver") == [Process(child.pid)]
    assert child.wait(60) == -9
    assert killer.kill(found, "driver") == [Process(child.pid)]
