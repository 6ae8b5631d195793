"""A mirror on S3, over a real server on loopback."""

from __future__ import annotations

import hashlib
import socket

import boto3
import pytest
from moto.server import ThreadedMotoServer

from data_prep.fetch import fetch
from data_prep.sources import RAW_FILES, RawFile
from seqgen.core.errors import BadInput, OperationalError

CONTENT = bytes(range(256)) * 10_000


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint, monkeypatch):
    for key, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "not-to-be-shown",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "2",
    }.items():
        monkeypatch.setenv(key, value)
    client = boto3.Session().client("s3")
    client.create_bucket(Bucket="data")
    client.put_object(Bucket="data", Key="some/prefix/mnist/file.bin", Body=CONTENT)
    file = RawFile("mnist", "file.bin", (), (hashlib.sha256(CONTENT).hexdigest(),))
    monkeypatch.setitem(RAW_FILES, "mnist", (file,))
    return client


@pytest.mark.parametrize("address", ["s3://data/some/prefix", "s3://data/some/prefix/"])
def test_a_file_comes_from_a_prefix(bucket, tmp_path, address):
    fetch(["mnist"], tmp_path, address)
    assert (tmp_path / "mnist/file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [CONTENT[:1000], b"x" * 1000, CONTENT + b"more"])
def test_a_part_goes_on_or_is_started_again(bucket, tmp_path, part, monkeypatch):
    monkeypatch.setattr("data_prep.fetch._PAUSE", 0.01)
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist/file.bin.part").write_bytes(part)
    fetch(["mnist"], tmp_path, "s3://data/some/prefix")
    assert (tmp_path / "mnist/file.bin").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "mnist").iterdir()] == ["file.bin"]


def test_a_mismatch_names_the_key(bucket, tmp_path):
    bucket.put_object(Bucket="data", Key="some/prefix/mnist/file.bin", Body=b"other")
    with pytest.raises(BadInput, match=r"s3://data/some/prefix/mnist/file\.bin: expected sha256"):
        fetch(["mnist"], tmp_path, "s3://data/some/prefix")


@pytest.mark.parametrize(
    ("address", "problem"),
    [("s3://nobody/x", "NoSuchBucket"), ("s3://data/misspelt", "nothing below this prefix")],
)
def test_a_bucket_or_prefix_that_does_not_exist_is_bad_input(bucket, tmp_path, address, problem):
    with pytest.raises(BadInput, match=problem):
        fetch(["mnist"], tmp_path, address)
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_is_not_there_is_looked_for_elsewhere(bucket, tmp_path, monkeypatch):
    monkeypatch.setitem(RAW_FILES, "mnist", (RawFile("mnist", "other.bin", (), ("0" * 64,)),))
    with pytest.raises(OperationalError, match=r"prefix/mnist/other\.bin: not there"):
        fetch(["mnist"], tmp_path, "s3://data/some/prefix")


def test_an_unreachable_server_is_bad_input(bucket, tmp_path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(BadInput, match=r"mirror s3://data/some/prefix: .*cannot be reached") as caught:
            fetch(["mnist"], tmp_path, "s3://data/some/prefix")
    assert "not-to-be-shown" not in str(caught.value)


def test_missing_credentials_are_bad_input(bucket, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(BadInput, match="credentials"):
        fetch(["mnist"], tmp_path, "s3://data/some/prefix")
