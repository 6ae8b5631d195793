"""The streaming benchmark, on two shards of an S3 server in this process: all images pass, all figures are there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from benchmarks import streaming
from seqgen.data.manifest import read_manifest


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for key, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(key, value)
    boto3.Session().client("s3").create_bucket(Bucket="bench")
    yield "s3://bench/digits"
    server.stop()


def test_every_way_through_the_set_is_measured(address: str, tmp_path: Path):
    row = streaming.measure(address, shards=2, rounds=1, scratch=tmp_path)
    manifest = read_manifest(tmp_path / "set")
    assert row["images"] == manifest.splits["train"].images == 10_000
    assert all(
        len(seconds) == 1 and seconds[0] > 0 for kind in ("wall", "cpu") for seconds in row[kind].values()
    )
    shown = streaming.table(row)
    for name in ("webdataset, S3", "seqgen, S3", "seqgen, cache", "webdataset, disk", "seqgen, disk"):
        assert f"| {name} |" in shown
    names = [shard.name for shard in manifest.splits["train"].shards]
    assert sum(len(x) for x in streaming.stock([f"{address}/{name}" for name in names], 64)) == 10_000
    assert {path.name for path in (tmp_path / "warm").glob("*.tar")} == {
        f"{shard.sha256}.tar" for shard in manifest.splits["train"].shards
    }
