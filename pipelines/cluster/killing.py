"""Killing the processes of a running training: its workers, one or all, and its driver. What `seqgen chaos` does.

    killer = Killer(seed=0)
    killer.kill(LocalProcesses(driver.pid), "worker")

`ClusterProcesses` is for a training on a cluster that others share, `LocalProcesses` for one that started its own.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from typing import Any, Literal, NamedTuple, Protocol

import psutil

What = Literal["worker", "all", "driver"]
WORKER = "RayTrainWorker"  # Ray Train's actor, one a worker


class Process(NamedTuple):
    """A process of a training; `node` is Ray's name of its machine, empty for this one."""

    pid: int
    node: str = ""


class Processes(Protocol):
    """A training's processes, found and killed; the driver is a process of this machine."""

    driver: int

    def workers(self) -> list[Process]:
        """The workers there are now, in the order of their pids."""
        ...

    def kill(self, process: Process) -> None:
        """SIGKILL; one that has ended is no error."""
        ...


class LocalProcesses:
    """The processes of a training whose driver, `driver`, started a Ray of its own."""

    def __init__(self, driver: int) -> None:
        self.driver = driver

    def workers(self) -> list[Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.driver).children(recursive=True)
            return sorted(Process(each.pid) for each in family if _is_worker(each))
        return []

    def kill(self, process: Process) -> None:
        _kill(process.pid)


class ClusterProcesses:
    """The processes of a training on the cluster that this process is connected to (`connect.connected`)."""

    def __init__(self, driver: int) -> None:
        self.driver = driver

    def workers(self) -> list[Process]:
        import ray
        from ray._private import state

        here = ray.util.get_node_ip_address()
        jobs = {
            job["JobID"]
            for job in state.jobs()
            if (job["DriverPid"], job["DriverIPAddress"], job["IsDead"]) == (self.driver, here, False)
        }
        actors: list[dict[str, Any]] = list(state.actors().values())
        return sorted(
            Process(actor["Pid"], actor["Address"]["NodeID"])
            for actor in actors
            if (actor["ActorClassName"], actor["State"]) == (WORKER, "ALIVE") and actor["JobID"] in jobs
        )

    def kill(self, process: Process) -> None:
        if not process.node:
            _kill(process.pid)
            return
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(process.node, soft=False)
        ray.get(ray.remote(_kill).options(num_cpus=0, scheduling_strategy=there).remote(process.pid))


class Killer:
    """Kills victims of a training that `seed` draws; the same seed draws the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def choose(self, among: list[What]) -> What:
        """Whom the next kill is for."""
        return self._random.choice(among)

    def kill(self, processes: Processes, what: What) -> list[Process]:
        """Kill a worker, all workers or the driver; whom, empty if there was none."""
        workers = processes.workers()
        victims = {
            "worker": [self._random.choice(workers)] if workers else [],
            "all": workers,
            "driver": [Process(processes.driver)],
        }[what]
        for victim in victims:
            processes.kill(victim)
        return victims


def _is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()[:1] != [] and process.cmdline()[0].startswith(f"ray::{WORKER}")
    return False


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
