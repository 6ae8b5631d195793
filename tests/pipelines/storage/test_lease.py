"""The lease: one holder over all machines, taken over once it is silent; the same in a folder and in a real bucket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli import signals
from pipelines.cli.signals import raise_on_stop
from pipelines.storage import Store, open_store
from pipelines.storage import lease as leases
from pipelines.storage.folder import Folder
from pipelines.storage.lease import Lost, leased
from seqgen.core.errors import OperationalError
from seqgen.core.locks import Taken, held
from tests.finished_run import outside
from tests.s3_server import S3Server

HOLD = """
import sys, time
from pathlib import Path
from pipelines.storage import open_store
from pipelines.storage.lease import leased
from seqgen.core.locks import held
root, lock = sys.argv[1], Path(sys.argv[2])
with held(lock), leased(open_store(root), 12, lock):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        server.client().create_bucket(Bucket="runs")
        yield server


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store of each kind."""
    if request.param == "folder":
        return open_store(str(tmp_path / "root"))
    for name, value in request.getfixturevalue("server").environment().items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://runs/{tmp_path.name}")


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[Path]:
    """A lock file that is held, as everyone on this machine does who wants the lease."""
    path = tmp_path / "here.lock"
    with held(path):
        yield path


def holder(store: Store, lock: Path) -> subprocess.Popen[str]:
    """Another process, which holds the lease and a lock file."""
    aws = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, store.root, str(lock)],
        env=outside(**aws),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_who_lives_keeps_it_and_who_is_dead_loses_it(
    store: Store, lock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = holder(store, tmp_path / "of another machine.lock")
    for _ in range(2):
        with (
            pytest.raises(Taken, match=rf"held by another process \(pid {other.pid} on "),
            leased(store, 3, lock),
        ):
            pass
    kill(other)
    with leased(store, 3, lock) as lease:
        lease.check()
    assert f"worked on by pid {other.pid} on" in capsys.readouterr().err
    with leased(store, 3, lock):  # let go, it is free at once
        pass
    assert capsys.readouterr().err == ""
    assert len(store.list()) <= 2


def test_one_who_held_the_same_lock_file_is_dead_without_a_wait(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "same.lock"
    kill(holder(store, lock))
    with held(lock), leased(store, 3, lock):
        pass
    assert capsys.readouterr().err == ""


def test_a_clock_of_another_time_is_of_no_effect(store: Store, lock: Path) -> None:
    entry = {"holder": "pid 1 on there", "key": "k", "renewed": time.time() + 5000, "seconds": 1}
    store.write("lease-000007.json", json.dumps(entry).encode())
    with leased(store, 1, lock) as lease:
        assert lease.number == 8


def test_who_was_away_too_long_is_stopped(store: Store, lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work_on() -> None:
        with leased(store, 1, lock) as lease:
            entry = {"holder": "another", "key": "of another", "renewed": time.time(), "seconds": 1}
            assert store.create("lease-000002.json", json.dumps(entry).encode())
            with pytest.raises(Lost):
                lease.check()
            time.sleep(60)

    monkeypatch.setattr(signals, "_stopped_by", None)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        raise_on_stop()
        with pytest.raises(Lost, match="was taken over by another, which goes on; stopped here"):
            work_on()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert json.loads(store.read("lease-000002.json") or b"")["holder"] == "another"


class Silent(Folder):
    """Answers no write from a moment on, until another."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.answers = threading.Event()
        self.answers.set()

    def write(self, key: str, content: bytes) -> str:
        self.answers.wait(60)
        return super().write(key, content)


def test_a_storage_that_does_not_answer_holds_up_nobody_who_leaves(
    tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_LEAVING", 0.1)
    silent = Silent(str(tmp_path / "root"))

    def renewed() -> float:
        return json.loads(silent.read("lease-000001.json") or b"")["renewed"]

    with leased(silent, 60, lock):
        silent.answers.clear()
    assert renewed(), "it left, and could not say so"
    silent.answers.set()
    (letting_go,) = (thread for thread in threading.enumerate() if thread.name == "lease")
    letting_go.join(60)
    assert not renewed()


def test_a_damaged_one_is_named(store: Store, lock: Path) -> None:
    store.write("lease-000007.json", b"{")
    with pytest.raises(OperationalError, match=r"lease-000007\.json: damaged"), leased(store, 1, lock):
        pass


@pytest.mark.slow
def test_one_without_a_sha256_counts(server: S3Server, tmp_path: Path, lock: Path, monkeypatch) -> None:
    """As retraining wrote it to buckets once."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    entry = {"holder": "pid 1 on there", "key": "k", "renewed": 0.0, "seconds": 100}
    server.client().put_object(
        Bucket="runs", Key=f"{tmp_path.name}/lease-000003.json", Body=json.dumps(entry).encode()
    )
    with leased(open_store(f"s3://runs/{tmp_path.name}"), 3, lock) as lease:
        assert lease.number == 4
