"""Ports for the servers of tests."""

from __future__ import annotations

import random
import socket


def free_ports(count: int) -> list[int]:
    """Free ports below those the system hands out and outside those of Ray's workers."""
    found: list[int] = []
    # At random: another process of tests looks for some at the same moment.
    for port in random.sample(range(20_000, 32_000), 12_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")
