"""The serve verb as a process, on a port that it finds free."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import requests

from tests.finished_run import outside

WAIT = 300  # seconds until it answers, at most


class ServeProcess:
    """A context: within it the server has a model, after it it has ended. `log` is what it has said."""

    def __init__(self, where: Path, source: str | Path, *options: str) -> None:
        self._where, self._log = where, where / "serve.log"
        self._command = [sys.executable, "-m", "pipelines.serve", str(source), "--port=0", *options]
        self.url = ""

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self._where, env=outside(), stdout=log, stderr=subprocess.STDOUT
            )
        self.wait_for("listening at ")
        self.url = self.log.partition("listening at ")[2].split()[0]
        self.wait_for("serving ")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        """Wait until the log has it."""
        end = time.monotonic() + WAIT
        while text not in self.log:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.05)

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=WAIT)

    def post(self, path: str, question: Any) -> requests.Response:
        return requests.post(self.url + path, json=question, timeout=WAIT)
