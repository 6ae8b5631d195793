"""What tests of the registry share: who is champion, what a verb says, processes beside, a gate before the server."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow.entities.model_registry import ModelVersion

from pipelines import register
from pipelines.artifacts.trained_model import TrainedModel
from pipelines.cli.main import main
from pipelines.registry import versions
from pipelines.tracking import runs
from tests.finished_run import outside

REGISTER = """
from pipelines.register import register_trained
from pipelines.artifacts.trained_model import load_trained_model
import pipelines.registry.promotion, pipelines.registry.competition, mlflow.pyfunc
trained = load_trained_model("tiny.yaml")
print("there", flush=True)
input()
register_trained(trained)
"""


def registered(trained: TrainedModel) -> dict[str, Any]:
    return register.register_trained(trained)


def champion(name: str = "tiny") -> str | None:
    """The number of the champion's version."""
    holder = versions.by_alias(runs.connect(), name, "champion")
    return str(holder.version) if holder else None


def said(capsys: pytest.CaptureFixture, *words: str) -> tuple[int | str | None, str]:
    """The exit code of `seqgen WORDS`, and what it said."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    out, error = capsys.readouterr()
    return stop.value.code or 0, out + error


def another(code: str, uri: str, cwd: Path) -> subprocess.Popen[str]:
    """A process that runs `code`; it says a line when it is there, and waits for one."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=outside(MLFLOW_TRACKING_URI=uri),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def version(number: str, name: str = "tiny") -> ModelVersion:
    return runs.connect().get_model_version(name, number)


def moves_champion(method: str, path: str, body: bytes) -> bool:
    """Whether a request gives a version the alias of the champion."""
    return method == "POST" and path.endswith("/registered-models/alias") and b"champion" in body


class Gate:
    """A proxy before a server that lets everything through but requests that are `closed`, answered by `answer`."""

    def __init__(
        self,
        uri: str,
        answer: Callable[[], int],
        closed: Callable[[str, str, bytes], bool] = moves_champion,
    ) -> None:
        self.reached = threading.Event()
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if closed(self.command, self.path, body):
                    gate.reached.set()
                    self.send_response(answer())
                    self.end_headers()
                    return
                kept = {
                    key: value
                    for key, value in self.headers.items()
                    if key.lower() not in ("host", "accept-encoding")
                }
                kept["Accept-Encoding"] = "identity"
                found = requests.request(self.command, uri + self.path, data=body, headers=kept, timeout=60)
                self.send_response(found.status_code)
                for key, value in found.headers.items():
                    if key.lower() not in ("transfer-encoding", "connection", "content-length"):
                        self.send_header(key, value)
                self.send_header("Content-Length", str(len(found.content)))
                self.end_headers()
                self.wfile.write(found.content)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = forward

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
