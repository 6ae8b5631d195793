"""What this process may use of the machine: a container's quota counts, not only the hardware."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Device = Literal["cpu", "cuda"]
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Resources:
    """What a machine or a cluster has in all, free now or not; memory in bytes. `owner` names it in messages."""

    cpus: int
    gpus: int
    memory: int
    owner: str = "this machine"


def cores() -> int:
    """CPUs this process may use: those it may run on and, in a container, its quota (cgroup v2); at least 1."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        allowed = os.cpu_count() or 1
    for text in _limits("cpu.max"):
        quota, period = text.split()
        if quota != "max":
            allowed = min(allowed, int(quota) // int(period))
    return max(1, allowed)


def memory() -> int:
    """Bytes of memory this process may use: the machine's or, in a container, its limit (cgroup v2)."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([installed, *(int(text) for text in _limits("memory.max") if text != "max")])


def peak_memory() -> int:
    """Bytes of memory that this process has held at most (resident)."""
    with contextlib.suppress(OSError):  # getrusage's begins with that of the process that started this one
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _limits(name: str) -> Iterator[str]:
    """The contents of `name` in this process's cgroup and those above it."""
    try:
        lines = _OWN_CGROUP.read_text().splitlines()
    except OSError:
        return
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    if own is None:
        return
    group = _CGROUPS / own.lstrip("/")
    for directory in (group, *group.parents):
        if not directory.is_relative_to(_CGROUPS):
            return
        try:
            yield (directory / name).read_text().strip()
        except OSError:  # the root has none
            continue
