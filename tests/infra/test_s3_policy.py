"""The rights on the bucket are enough for what uses them, and no more: a real S3 protocol, with rights enforced."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from botocore.exceptions import ClientError
from pyarrow import fs

from pipelines.artifacts.published import check_published, opened, publish_set
from pipelines.doctor import stores
from seqgen.data.manifest import confirmed_bytes, read_manifest
from tests.sets import write_digits

INFRA = Path(__file__).parents[2] / "infra"
PREFIXES = {"training": ("ray", "data", "dvc"), "mlflow": ("mlflow",), "reader": ("data",)}


def statements(name: str) -> list[dict[str, Any]]:
    return json.loads((INFRA / f"s3-policy-{name}.json").read_text())["Statement"]


@pytest.mark.parametrize("name", PREFIXES)
def test_policy_allows_its_own_prefixes_only(name: str):
    own = "|".join(PREFIXES[name])
    listing, using = statements(name)
    for statement in (listing, using):
        assert statement["Effect"] == "Allow"
        assert not [action for action in statement["Action"] if "*" in action]
    assert listing["Resource"] == ["arn:aws:s3:::seqgen"]
    # IfExists: Arrow, by which Ray stores, asks for the bucket itself before it writes, and that has no prefix.
    operator = "StringLike" if name == "reader" else "StringLikeIfExists"
    assert listing["Condition"] == {operator: {"s3:prefix": [f"{one}/*" for one in PREFIXES[name]]}}
    for resource in using["Resource"]:
        assert re.fullmatch(rf"arn:aws:s3:::seqgen/({own})/\*", resource)


@pytest.fixture
def server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    _, port = started.get_host_and_port()
    address = f"http://127.0.0.1:{port}"
    yield address
    requests.post(f"{address}/moto-api/reset", timeout=30)
    started.stop()


class Client:
    """The S3 client and Arrow's file system of one user."""

    def __init__(self, endpoint: str, key: str, secret: str) -> None:
        login = {"aws_access_key_id": key, "aws_secret_access_key": secret, "region_name": "us-east-1"}
        self.s3 = boto3.Session().client("s3", endpoint_url=endpoint, **login)
        self.arrow = fs.S3FileSystem(
            access_key=key, secret_key=secret, endpoint_override=endpoint, scheme="http", region="us-east-1"
        )


@pytest.fixture
def user(server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Client:
    """One with the policy of that name alone.

    The server (moto) knows actions and resources, but no conditions, and has names of its own for what AWS counts
    to s3:ListBucket and s3:ListBucketMultipartUploads.
    """
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    anybody = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    boto3.Session().client("s3", endpoint_url=server, **anybody).create_bucket(Bucket="seqgen")
    iam = boto3.Session().client("iam", endpoint_url=server, **anybody)
    iam.create_user(UserName="one")
    listing, using = statements(request.param)
    del listing["Condition"]
    listing["Action"] += ["s3:HeadBucket"]
    if "s3:ListBucketMultipartUploads" in listing["Action"]:
        listing["Action"] += ["s3:ListMultipartUploads"]
    policy = json.dumps({"Version": "2012-10-17", "Statement": [listing, using]})
    iam.put_user_policy(UserName="one", PolicyName="own", PolicyDocument=policy)
    key = iam.create_access_key(UserName="one")["AccessKey"]
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return Client(server, key["AccessKeyId"], key["SecretAccessKey"])


@pytest.mark.parametrize("user", ["training"], indirect=True)
def test_training_stores_and_finds_and_deletes_checkpoints(user: Client):
    run = "seqgen/ray/run"
    user.arrow.create_dir(f"{run}/epoch_000001", recursive=True)
    with user.arrow.open_output_stream(f"{run}/epoch_000001/weights.safetensors") as stream:
        for _ in range(3):  # more than one part
            stream.write(b"w" * (6 << 20))
    user.arrow.copy_file(f"{run}/epoch_000001/weights.safetensors", f"{run}/epoch_000001/copy")
    found = user.arrow.get_file_info(fs.FileSelector(run, recursive=True))
    assert {info.size for info in found if info.is_file} == {18 << 20}
    for info in found:  # one by one: of many in one request moto asks the bucket's policy, not the user's
        if info.is_file:
            user.s3.delete_object(Bucket="seqgen", Key=info.path.removeprefix("seqgen/"))
    assert not [
        info for info in user.arrow.get_file_info(fs.FileSelector(run, recursive=True)) if info.is_file
    ]
    begun = user.s3.create_multipart_upload(Bucket="seqgen", Key="ray/left")["UploadId"]
    user.s3.upload_part(Bucket="seqgen", Key="ray/left", UploadId=begun, PartNumber=1, Body=b"x")
    (left,) = user.s3.list_multipart_uploads(Bucket="seqgen", Prefix="ray/")["Uploads"]
    user.s3.abort_multipart_upload(Bucket="seqgen", Key=left["Key"], UploadId=left["UploadId"])


@pytest.mark.parametrize(("user", "foreign"), [("training", "mlflow"), ("mlflow", "ray")], indirect=["user"])
def test_what_is_another_s_is_refused(user: Client, foreign: str):
    for call, arguments in (
        ("put_object", {"Key": f"{foreign}/x", "Body": b"x"}),
        ("get_object", {"Key": f"{foreign}/x"}),
        ("delete_object", {"Key": f"{foreign}/x"}),
        ("put_bucket_policy", {"Policy": "{}"}),
        ("delete_bucket", {}),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            getattr(user.s3, call)(Bucket="seqgen", **arguments)
    own = PREFIXES["mlflow" if foreign == "ray" else "training"][0]
    user.s3.put_object(Bucket="seqgen", Key=f"{own}/x", Body=b"x")


@pytest.mark.parametrize("user", ["training"], indirect=True)
def test_a_reader_reads_published_shards_and_writes_nothing(
    user: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    address = "s3://seqgen/data/digits"
    write_digits(tmp_path)
    manifest = publish_set(tmp_path, address)
    iam = boto3.Session().client("iam", region_name="us-east-1", endpoint_url=user.s3.meta.endpoint_url)
    with monkeypatch.context() as setting_up:
        setting_up.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", math.inf)
        policy = (INFRA / "s3-policy-reader.json").read_text()
        iam.put_user_policy(UserName="one", PolicyName="own", PolicyDocument=policy)

    monkeypatch.setenv("SEQGEN_SHARD_CACHE", str(tmp_path / "cache"))
    place = opened(address)
    assert read_manifest(place).digest == manifest.digest
    shards = manifest.splits["train"].shards
    check_published(place, shards)
    for shard in shards:
        assert confirmed_bytes(place, shard) == (tmp_path / shard.name).read_bytes()
    monkeypatch.setenv("SEQGEN_SHARDS", "s3://seqgen/data")
    (found,) = stores.shards()
    assert found.verdict == "ok", found
    for call, arguments in (
        ("put_object", {"Key": "data/x", "Body": b"x"}),
        ("delete_object", {"Key": f"data/digits/{shards[0].name}"}),
        ("create_multipart_upload", {"Key": "data/x"}),
        ("get_object", {"Key": "ray/x"}),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            getattr(user.s3, call)(Bucket="seqgen", **arguments)
