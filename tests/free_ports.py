"""Ports for the servers of tests."""

from __future__ import annotations

import os
import socket


def free_ports(count: int) -> list[int]:
    """Free ports below those the system hands out and outside those of Ray's workers."""
    found: list[int] = []
    for port in range(20_000 + os.getpid() % 5_000, 32_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")
