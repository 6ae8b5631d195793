"""The serve verb as a process that tests start, kill and start again."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import requests

from tests.finished_run import outside
from tests.free_ports import free_ports

WAIT = 300  # seconds until it answers, at most


class Served:
    """`start` waits until the model is there; the port stays the same after `kill`."""

    def __init__(self, model: Path, held_out: Path | None = None) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._log = model.parent / "serve.log"
        self._command = [sys.executable, "-m", "pipelines.serve", str(model), f"--port={port}"]
        if held_out is not None:
            self._command.append(f"--held-out={held_out}")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it. Raises RuntimeError with its log if it ends or says nothing."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=outside(), stdout=log, stderr=log)
        end = time.monotonic() + WAIT
        while self._process.poll() is None and time.monotonic() < end:
            try:
                if requests.get(self.url + "/v1/model", timeout=5).ok:
                    return
            except requests.RequestException:
                pass
            time.sleep(0.2)
        self.kill()
        raise RuntimeError(self._log.read_text())

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
