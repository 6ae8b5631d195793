"""Where the services of a project keep their data, keys, ports and logs: `services` below `state_root()`."""

from __future__ import annotations

import json
import os
import secrets
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.artifacts.places import state_root
from seqgen.core.errors import OperationalError
from seqgen.core.files import write_json
from seqgen.core.machine import free_port

_PORTS = (
    "postgres",
    "s3",
    "s3_grpc",
    "master",
    "master_grpc",
    "volume",
    "volume_grpc",
    "filer",
    "filer_grpc",
)
_KEYS = ("postgres", "s3_id", "s3_secret", "mlflow", "session")


class Place:
    """The folder of the services. Keys and ports are made at the first start, and kept."""

    def __init__(self) -> None:
        self.root = state_root() / "services"

    def make(self) -> None:
        """Make the folder. Others may pass through it, to what is theirs."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o711)

    @cached_property
    def keys(self) -> dict[str, str]:
        """Passwords and secrets by name, in a file that its owner alone can read."""
        return self._kept("keys.json", lambda: {name: secrets.token_hex(20) for name in _KEYS})

    @cached_property
    def ports(self) -> dict[str, int]:
        """Ports of 127.0.0.1 that were free at the first start."""
        return self._kept("ports.json", lambda: dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True)))

    @property
    def lock(self) -> Path:
        """Held by who starts or stops."""
        return self.root / "lock"

    def log(self, service: str) -> Path:
        """What a service prints."""
        return self.root / f"{service}.log"

    def read_state(self) -> dict[str, Any]:
        """What `write_state` wrote; empty if there is none."""
        try:
            state = json.loads((self.root / "state.json").read_text())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def write_state(self, state: dict[str, Any]) -> None:
        """Which processes run: for the next command."""
        write_json(self.root / "state.json", state)

    def write_secret(self, name: str, text: str) -> Path:
        """Write a file that its owner alone can read, from its first byte on."""
        path = self.root / name
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(text)
        return path

    def _kept(self, name: str, make: Any) -> Any:
        path = self.root / name
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            value = make()
            self.write_secret(name, json.dumps(value, indent=2) + "\n")
            return value
        except ValueError as error:
            raise OperationalError(f"{path}: damaged ({error}); restore it, or remove {self.root}") from None


def _free_ports(count: int) -> list[int]:
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return sorted(found)
