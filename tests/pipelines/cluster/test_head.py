"""The head of the local cluster: which ports it takes, and whom `down` stops."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipelines.cluster import head
from seqgen.core.errors import BadInput
from tests.free_ports import free_ports
from tests.registries import another, go


@pytest.mark.parametrize("port", [80, 10_500, 19_999, 70_000])
def test_ports_that_ray_cannot_use_are_refused(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=f"--dashboard-port {port}"):
        head.up(*free_ports(1), port)
    assert not list(tmp_path.iterdir())


def test_a_taken_port_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(BadInput, match=f"{taken}: taken"):
            head.up(taken, *free_ports(1))


def test_down_stops_no_process_that_up_did_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert not head.down()
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        started = psutil.Process(bystander.pid).create_time()
        (tmp_path / ".seqgen").mkdir()
        for state in ({"pid": bystander.pid, "started": started - 60}, {"pid": bystander.pid}, []):
            (tmp_path / ".seqgen/cluster.json").write_text(json.dumps(state))
            assert head.running() is None
            assert not head.down()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_stopped_job_has_whole_seconds(monkeypatch: pytest.MonkeyPatch):
    """Ray takes no others."""
    for given, seconds in (("", head.JOB_STOP_SECONDS), ("90.5", 91), ("0", 0)):
        monkeypatch.setenv("RAY_JOB_STOP_WAIT_TIME_S", given)
        assert head.job_stop_seconds() == seconds
    monkeypatch.setenv("RAY_JOB_STOP_WAIT_TIME_S", "soon")
    with pytest.raises(BadInput, match="RAY_JOB_STOP_WAIT_TIME_S=soon: give a number of seconds"):
        head.job_stop_seconds()


TOKEN = """
import os
from pathlib import Path
from pipelines.cluster.head import make_token
print("there", flush=True)
input()
make_token(dict(os.environ))
print(Path("~/.ray/auth_token").expanduser().read_text())
"""


@pytest.mark.slow
def test_clusters_that_start_at_once_begin_with_one_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An empty file, as a killed process may have left one, is no token."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").touch()
    processes = [another(TOKEN, "", tmp_path) for _ in range(3)]
    for process in processes:
        go(process)
    said = {process.communicate(timeout=500)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert said == {(tmp_path / ".ray/auth_token").read_text() + "\n"}
    assert len(said.pop()) > 32
