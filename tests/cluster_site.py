"""A directory with a local cluster that takes jobs, started and stopped by the verb `cluster`, for tests."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.free_ports import free_ports

ROOT = Path(__file__).resolve().parents[1]
VERB = (sys.executable, "-m", "pipelines.cluster")
RAY = str(Path(sys.executable).with_name("ray"))


@dataclass
class Site:
    """A directory with a local cluster; its own home, so that its token is its own."""

    where: Path
    port: int
    dashboard: str
    environment: dict[str, str]

    def call(self, *command: str, **changes: str) -> tuple[int, str]:
        done = subprocess.run(
            command, cwd=self.where, env={**self.environment, **changes}, text=True, timeout=900,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.returncode, done.stdout

    def submit(self, *verb: str, **changes: str) -> tuple[int, str]:
        commit = json.dumps({"env_vars": {"SEQGEN_COMMIT": "abc123"}})
        submit = [RAY, "job", "submit", "--address", self.dashboard, "--working-dir", str(ROOT)]
        command = [*submit, "--runtime-env-json", commit, "--", "python", "-m", *verb]
        return self.call(*command, RAY_AUTH_MODE="token", **changes)


@contextlib.contextmanager
def cluster_site(directory: Path, **more: str) -> Iterator[Site]:
    """A cluster of `directory`, with `more` in its environment, which is gone at the end."""
    port, dashboard = free_ports(2)
    (directory / "home").mkdir()
    outside = {
        key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "SEQGEN_"))
    }
    environment = {**outside, "PYTHONPATH": str(ROOT), "HOME": str(directory / "home"), **more}
    made = Site(directory, port, f"http://127.0.0.1:{dashboard}", environment)
    try:
        code, text = made.call(*VERB, "up", "--port", str(port), "--dashboard-port", str(dashboard))
        assert code == 0, text
        assert f"ray job submit --address {made.dashboard} --working-dir . -- python -m" in text
        yield made
    finally:
        made.call(*VERB, "down")
