"""Processes that outlive the command that started them: told from others with their pid, stopped with their family."""

from __future__ import annotations

import contextlib
import signal
import socket
from typing import Any

from seqgen.core.errors import BadInput

_STOP_SECONDS = 60.0


def identity(pid: int) -> dict[str, Any]:
    """What to write down of a process to know it again: pids are used anew. Raises OSError if there is none."""
    import psutil

    try:
        return {"pid": pid, "started": psutil.Process(pid).create_time()}
    except psutil.NoSuchProcess as error:
        raise OSError(f"no process {pid}") from error


def is_running(known: Any) -> bool:
    """Whether the very process of `identity` still runs; False for anything else."""
    import psutil

    try:
        now = identity(known["pid"])
        return (
            now["started"] == known["started"]
            and psutil.Process(known["pid"]).status() != psutil.STATUS_ZOMBIE
        )
    except (OSError, KeyError, TypeError, psutil.NoSuchProcess):
        return False


def check_free(option: str, port: int) -> None:
    """Raise BadInput if another process has the port that `option` asks for."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise BadInput(f"{option} {port}: taken by another process; choose another") from None


def stop(pid: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Send `number`, on which the process ends its own children; SIGKILL for those of them left after a minute."""
    import psutil

    try:
        head = psutil.Process(pid)
        family = [head, *head.children(recursive=True)]
        head.send_signal(number)
    except psutil.NoSuchProcess:  # it has ended by itself
        return
    _, left = psutil.wait_procs(family, timeout=_STOP_SECONDS)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=_STOP_SECONDS)
