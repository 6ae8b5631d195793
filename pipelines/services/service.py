"""One service: the process it is, how to see that it answers, how to stop it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqgen.core.errors import OperationalError

_START_SECONDS = 600.0


@dataclass(frozen=True)
class Service:
    """`command` in `directory` with `environment`, as `user` (None: our own); the signal `stop` ends it well."""

    name: str
    address: str
    command: list[str]
    directory: Path
    environment: Mapping[str, str]
    answers: Callable[[], bool]
    user: str | None = None
    stop: signal.Signals = signal.SIGTERM

    def start(self, log: Path) -> subprocess.Popen[bytes]:
        """Start it in the background; what it prints goes to `log`."""
        with log.open("ab") as stream:
            return subprocess.Popen(
                self.command,
                cwd=self.directory,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                **as_user(self.user),
            )

    def wait(self, process: subprocess.Popen[bytes], log: Path) -> None:
        """Wait until it answers. Raises OperationalError if it ends, or does not within minutes."""
        deadline = time.monotonic() + _START_SECONDS
        while not self.answers():
            if process.poll() is not None:
                raise OperationalError(
                    f"{self.name} ended with code {process.returncode} while starting: {_last_line(log)}; see {log}"
                )
            if time.monotonic() > deadline:
                raise OperationalError(f"{self.name} did not answer within {_START_SECONDS:.0f} s; see {log}")
            time.sleep(0.5)


def as_user(user: str | None) -> dict[str, Any]:
    """Arguments of subprocess for a process of `user`; none if that is us."""
    if user is None:
        return {}
    import pwd

    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "it printed nothing"
