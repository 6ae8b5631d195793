"""A real Ray cluster of several nodes on one machine: one is added, drained, killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.free_ports import free_ports
from tests.network import Network
from tests.train_runs import environment

ASK = """
import json, ray
from ray._private import state
ray.init(log_to_driver=False, logging_level="error")
print(json.dumps({}))
"""
KILL = """
import json
from pipelines.cluster.connect import connected
from pipelines.cluster.killing import ClusterProcesses, Killer
with connected():
    print("there", flush=True)
    found = ClusterProcesses(int(input()))
    there = found.workers()
    print(json.dumps([there, Killer(0).kill(found, "worker")]))
"""
RAY = str(Path(sys.executable).with_name("ray"))
Killing = Callable[[int], tuple[list[list[Any]], list[list[Any]]]]


class Nodes:
    """Raylets of one machine that are nodes of one cluster, of one CPU each but for the head, which has none.

    With a network each but the head is a machine of its own there.
    """

    def __init__(self, place: Path, network: Network | None = None) -> None:
        port, dashboard = free_ports(2)
        host = network.address if network else "127.0.0.1"
        self.address, self.place, self.network = f"{host}:{port}", place, network
        (place / "home").mkdir()
        self.variables = {
            "HOME": str(place / "home"),
            # The kernels that the undisturbed run had: others round differently.
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "of-this-test-alone-0123456789",
            # Or Ray's watching actors ask whichever cluster of this machine began last, and end our trainings.
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
            "OMP_NUM_THREADS": "1",
            # How soon the cluster notices that a node is gone.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        self._start(
            "--head",
            f"--port={port}",
            f"--dashboard-port={dashboard}",
            "--num-cpus=0",
            f"--node-ip-address={host}",
        )

    def add(self, hidden: Path | None = None) -> subprocess.Popen[bytes]:
        """Another node, on which the folder `hidden` is empty."""
        arguments, before = [f"--address={self.address}", "--num-cpus=1"], []
        if hidden:
            before += ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{hidden}" && exec "$@"', "sh"]
        if self.network:
            machine = self.network.add()
            arguments.append(f"--node-ip-address={machine.address}")
            before += ["ip", "netns", "exec", machine.name]
        return self._start(*arguments, before=before)

    def _start(self, *arguments: str, before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        name = self._name(len(self.processes))
        path = self.place / f"{name}.log"
        log = path.open("wb")
        cores = sorted(os.sched_getaffinity(0))
        core = cores[
            len(self.processes) % len(cores)
        ]  # one: so many threads a worker has, and its sums are split by
        ray = [RAY, "start", "--block", "--disable-usage-stats", f"--node-name={name}"]
        process = subprocess.Popen(
            [*before, "taskset", "-c", str(core), *ray, *arguments],
            cwd=self.place,
            env=environment(self.place) | self.variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self.processes.append(process)
        while b"Ray runtime started" not in path.read_bytes():
            assert process.poll() is None, path.read_text()
            time.sleep(0.5)
        return process

    def drain(self, node_id: str) -> None:
        """Announce, as a cloud does, that the node of this id will go."""
        self._ray(
            RAY, "drain-node", "--address", self.address, "--node-id", node_id,
            "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "reclaimed",
            "--deadline-remaining-seconds", "120",
        )  # fmt: skip

    def id_of(self, node: subprocess.Popen[bytes]) -> str:
        """Ray's name of a node."""
        name = self._name(self.processes.index(node))
        (found,) = self._ask(f"[node['NodeID'] for node in ray.nodes() if node['NodeName'] == '{name}']")
        return found

    def hold(self, cpus: int) -> None:
        """Let another job hold so many CPUs, each of one node, and end without giving them back."""
        held = f"ray.util.placement_group([{{'CPU': 1}}] * {cpus}, lifetime='detached', name='held')"
        assert self._ask(f"{held}.wait(60)")

    def actors(self) -> list[str]:
        """The classes of the actors that live on the cluster."""
        return self._ask("[a['ActorClassName'] for a in state.actors().values() if a['State'] == 'ALIVE']")

    @contextlib.contextmanager
    def killer(self) -> Iterator[Killing]:
        """A process, connected already, that kills a worker of the training whose driver has the given pid.

        As `seqgen chaos` does. It tells the workers there were, and whom it killed: each as pid and Ray's name of its
        node.
        """
        process = subprocess.Popen(
            [sys.executable, "-c", KILL],
            env=self._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"

        def kill_one(driver: int) -> tuple[list[list[Any]], list[list[Any]]]:
            said, _ = process.communicate(f"{driver}\n")
            there, killed = json.loads(said.splitlines()[-1])
            return there, killed

        try:
            yield kill_one
        finally:
            process.kill()
            process.wait()

    def _ask(self, expression: str) -> Any:
        """What the cluster says."""
        return json.loads(self._ray(sys.executable, "-c", ASK.format(expression)).splitlines()[-1])

    def _ray(self, *command: str) -> str:
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _environment(self) -> dict[str, str]:
        return environment(self.place) | self.variables | {"RAY_ADDRESS": self.address}

    @staticmethod
    def _name(number: int) -> str:
        return f"node-{number}"

    def end(self) -> None:
        for process in reversed(self.processes):
            kill(process)


def kill(node: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a node: its raylet and all that runs there."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(node.pid).children(recursive=True)
        for process in [psutil.Process(node.pid), *family]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
    node.wait()


def variables(nodes: Nodes, **more: str) -> dict[str, str]:
    return {
        **nodes.variables,
        "RAY_ADDRESS": nodes.address,
        "SEQGEN_ARTIFACTS": str(nodes.place / "artifacts"),
        "SEQGEN_STORAGE": str(nodes.place / "storage"),
        **more,
    }
