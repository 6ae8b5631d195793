"""Machines of a network on one machine: network namespaces on a bridge, whose wires can be cut."""

from __future__ import annotations

import os
import subprocess
from typing import NamedTuple

WIRE = "wire"  # the name of its interface, in each of them


class Machine(NamedTuple):
    """A namespace, its address, and this end of its wire."""

    name: str
    address: str
    end: str


class Network:
    """This process's own namespace and others, each with an address. Raises OSError where it may not be made."""

    def __init__(self) -> None:
        number = os.getpid()
        self._name, self._prefix = f"sg{number % 10**6}", f"10.{number // 250 % 250}.{number % 250}"
        self.address = f"{self._prefix}.1"
        self.machines: list[Machine] = []
        _ip("link", "add", self._name, "type", "bridge")
        _ip("address", "add", f"{self.address}/24", "dev", self._name)
        _ip("link", "set", self._name, "up")

    def add(self) -> Machine:
        """Another machine."""
        number = len(self.machines) + 2
        machine = Machine(f"{self._name}-{number}", f"{self._prefix}.{number}", f"{self._name}e{number}")
        _ip("netns", "add", machine.name)
        self.machines.append(machine)
        _ip("link", "add", machine.end, "type", "veth", "peer", "name", WIRE, "netns", machine.name)
        _ip("link", "set", machine.end, "master", self._name, "up")
        for command in (
            ("link", "set", "lo", "up"),
            ("address", "add", f"{machine.address}/24", "dev", WIRE),
            ("link", "set", WIRE, "up"),
            ("route", "add", "default", "via", self.address),
        ):
            _ip("-netns", machine.name, *command)
        return machine

    def cut(self, machine: Machine) -> None:
        """Nothing passes to it or from it any more, and nobody is told."""
        _ip("link", "set", machine.end, "nomaster")

    def end(self) -> None:
        for machine in self.machines:
            _ip("link", "delete", machine.end)
            _ip("netns", "delete", machine.name)
        _ip("link", "delete", self._name)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
