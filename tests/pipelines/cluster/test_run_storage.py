"""Storage of runs: which run is gone on with, by whom, where it lies, and what is said of storage that refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipelines.cluster import storage
from pipelines.cluster.checkpoints import Checkpoints
from pipelines.cluster.storage import RunStorage, storage_root
from pipelines.storage import open_store
from pipelines.storage.lease import Lease, Lost
from seqgen.core.errors import BadInput, OperationalError
from tests.finished_run import outside


def walk_through_runs(root: str) -> None:
    """New, gone on with, complete, the next one."""
    first = RunStorage.unfinished(root, "a")
    assert first.state() == {}
    first.keep({"run_id": "1"})
    assert RunStorage.unfinished(root, "a") == first
    assert RunStorage.unfinished(root, "a").state() == {"run_id": "1"}
    first.complete({})
    second = RunStorage.unfinished(root, "a")
    assert second.name == "a-2"
    assert second.state() == {}
    second.complete({})
    assert RunStorage.unfinished(root, "a").name == "a-3"
    assert RunStorage.unfinished(root, "b").name == "b"


def test_a_run_is_gone_on_with_until_it_is_complete(tmp_path: Path):
    walk_through_runs(str(tmp_path))


def test_a_finished_run_is_gone_on_with_for_more(tmp_path: Path):
    run = RunStorage.unfinished(str(tmp_path), "a")
    run.keep({"run_id": "1"})
    run.complete({"epochs": 3})
    for asked, name in ((3, "a-2"), (4, "a")):
        goes_on = lambda done, asked=asked: done["epochs"] < asked  # noqa: E731
        assert RunStorage.unfinished(str(tmp_path), "a", goes_on=goes_on).name == name
    assert RunStorage.unfinished(str(tmp_path), "a", goes_on=goes_on, fresh=True).name == "a-2"


def test_settings_are_refused_to_a_run_of_others_once_it_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEQGEN_STORAGE", raising=False)
    with RunStorage.claim("a", {"seed": 1}):
        pass  # ended before there was anything to go on with
    with RunStorage.claim("a", {"seed": 2}) as storage:
        storage.keep({"run_id": "1"})
    with pytest.raises(BadInput, match=r"seed was 2, is 3.*--force-new"), RunStorage.claim("a", {"seed": 3}):
        pass
    with RunStorage.claim("a", {"seed": 2}) as storage:
        assert storage.name == "a"
    with RunStorage.claim("a", {"seed": 3}, fresh=True) as storage:
        assert storage.name == "a-2"


def test_an_abandoned_run_is_gone_on_with_no_more(tmp_path: Path):
    RunStorage.unfinished(str(tmp_path), "a").keep({"run_id": "1"})
    assert RunStorage.unfinished(str(tmp_path), "a", fresh=True).name == "a-2"
    assert RunStorage.unfinished(str(tmp_path), "a").name == "a-2"


def test_a_damaged_state_is_named(tmp_path: Path):
    storage = RunStorage(str(tmp_path), "a")
    storage.keep({"run_id": "1"})
    (path,) = (tmp_path / "a").iterdir()
    path.write_text("{")
    with pytest.raises(OperationalError, match=path.name):
        storage.state()


def test_storage_that_cannot_be_written_is_explained(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises((BadInput, OperationalError), match=str(tmp_path)):
        RunStorage(str(tmp_path / "file"), "a").keep({})


def test_a_run_is_one_process_s_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with RunStorage.claim("a") as storage:
        assert storage.name == "a"
        with (
            pytest.raises(OperationalError, match=r"run a in .* is being worked on by another process"),
            RunStorage.claim("a"),
        ):
            pass
        with RunStorage.claim("b") as other:
            assert other.name == "b"
        storage.complete({})
    with RunStorage.claim("a") as storage:
        assert storage.name == "a-2"


CLAIM = """
import time
from pipelines.cluster import storage
storage.LEASE_SECONDS = 12
with storage.RunStorage.claim("a") as run:
    run.keep({"run_id": "1"})
    print("claimed", flush=True)
    time.sleep(600)
"""


def test_a_run_is_one_machine_s_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A machine is a working directory with locks of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEQGEN_STORAGE", str(tmp_path / "storage"))
    monkeypatch.setattr(storage, "LEASE_SECONDS", 12)
    there = tmp_path / "there"
    there.mkdir()
    other = subprocess.Popen(
        [sys.executable, "-c", CLAIM],
        cwd=there,
        env=outside(SEQGEN_STORAGE=str(tmp_path / "storage")),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout
        assert other.stdout.readline() == "claimed\n"
        said = (
            rf"run a in .*storage is being worked on by another process \(pid {other.pid} on .*stop it there"
        )
        with pytest.raises(OperationalError, match=said) as refused, RunStorage.claim("a"):
            pass
        assert refused.value.exit_code == 1
        with RunStorage.claim("b"):
            pass
    finally:
        other.kill()
        other.communicate()
    with RunStorage.claim("a") as run:
        assert run.state() == {"run_id": "1"}
        assert run.is_ours()


def test_who_lost_a_run_writes_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEQGEN_STORAGE", str(tmp_path / "storage"))
    with RunStorage.claim("a") as run:
        run.keep({"run_id": "1"})
        entry = {"holder": "another", "key": "of another", "renewed": 1.0, "seconds": 60}
        assert run.lease is not None
        open_store(run.lease.root).write("lease-000002.json", json.dumps(entry).encode())
        for write in (lambda: run.keep({}), lambda: run.complete({}), lambda: run.note("x.json", 1)):
            with pytest.raises(Lost, match="taken over by another"):
                write()
        local = tmp_path / "local"
        local.mkdir()
        (local / "index.json").write_text("{}")
        with pytest.raises(Lost):
            Checkpoints(run.store, run.name, lease=run.lease).put(1, local, print)
        assert not run.is_ours()
    assert [path.name for path in (tmp_path / "storage/a").iterdir()] == ["seqgen-run.json"]
    assert RunStorage(run.root, "a").state() == {"run_id": "1"}


def test_a_storage_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Who reads a pipe waits for who writes into it."""
    monkeypatch.setattr(storage, "_PATIENCE", 0.1)
    leases = tmp_path / "leases/a"
    leases.mkdir(parents=True)
    os.mkfifo(leases / "lease-000001.json")
    assert RunStorage(str(tmp_path), "a", Lease(str(leases), 1, "ours")).is_ours()
    (looking,) = (thread for thread in threading.enumerate() if thread.name == "lease-look")
    (leases / "lease-000001.json").write_text("{}")
    looking.join(60)


def test_where_runs_are_stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEQGEN_STORAGE", raising=False)
    assert storage_root() == str(tmp_path / ".seqgen/ray")
    for good in ("/shared/runs", "s3://bucket/prefix"):
        monkeypatch.setenv("SEQGEN_STORAGE", good)
        assert storage_root() == good
    for bad in ("relative/path", "gs://bucket", "http://host/x"):
        monkeypatch.setenv("SEQGEN_STORAGE", bad)
        with pytest.raises(BadInput, match=bad):
            storage_root()


@pytest.mark.slow
def test_runs_are_stored_in_s3_too(monkeypatch: pytest.MonkeyPatch):
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    try:
        boto3.Session().client("s3").create_bucket(Bucket="runs")
        walk_through_runs("s3://runs/prefix")
        with pytest.raises(BadInput, match="s3://absent"):
            RunStorage("s3://absent/prefix", "a").keep({})
    finally:
        server.stop()
