"""The verbs and DVC with an S3 server (a real one behind a fault proxy) as their storage."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.storage import open_store
from pipelines.tracking.source_files import PACKAGES, ROOT
from tests.fault_proxy import Answer, FaultProxy
from tests.finished_run import outside, tiny_recipe
from tests.s3_server import ADMIN, READER, Key, S3Server
from tests.searches import Search, until
from tests.sets import write_digits

pytestmark = pytest.mark.slow


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    with contextlib.closing(
        Search(tmp_path, {"model.steps": [4, 5]}, 512, trials=2, epochs=6, grace_epochs=6)
    ) as made:
        yield made


def test_22_a_search_goes_on_after_a_stop_and_meets_a_server_that_is_busy(
    s3_proxy: FaultProxy, s3_server: S3Server, search: Search
):
    """All that Tune saves is in the bucket, and no key of it; `best.json` says where."""
    storage = {"SEQGEN_STORAGE": "s3://runs/search"}
    driver = search.start(**storage)
    said = [until(driver, lambda line: "epoch 1/6" in line)]
    s3_proxy.inject(Answer(503, "SlowDown"), where=lambda request: request.method in ("PUT", "POST"), times=2)
    driver.send_signal(signal.SIGTERM)
    said.append(driver.communicate(timeout=500)[0])
    assert driver.returncode == 4, said

    s3_proxy.inject(Answer(503, "SlowDown"), where=lambda request: "checkpoint_" in request.path, times=2)
    code, text = search.run(**storage)
    said.append(text)
    assert code == 0, text
    assert "goes on, was at epoch" in text
    assert [request.outcome for request in s3_proxy.requests].count(503) == 4
    assert "Traceback" not in "".join(said)
    assert [(row["epochs"], row["status"]) for row in search.trials()] == [("6", "finished")] * 2
    checkpoint = search.best()["checkpoint"]
    assert checkpoint.startswith("s3://runs/search/")
    assert open_store(checkpoint).exists("index.json")
    assert not (search.where / ".seqgen/ray").exists()

    client = s3_server.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="runs", Prefix="search/")
    objects = [client.get_object(Bucket="runs", Key=one["Key"]) for page in pages for one in page["Contents"]]
    files = [path.read_bytes() for path in search.where.rglob("*") if path.is_file()]
    secret = ADMIN.secret.encode()
    assert not [
        content for content in (*(one["Body"].read() for one in objects), *files) if secret in content
    ]
    assert ADMIN.secret not in "".join(said)


@pytest.mark.parametrize(
    ("key", "bucket", "said"),
    [
        (READER, "runs", "PutObject was answered AccessDenied"),
        (ADMIN, "absent", "NoSuchBucket"),
        (Key("", "unknown", ADMIN.secret, ()), "runs", "InvalidAccessKeyId"),
    ],
    ids=["a reader's key", "no bucket", "unknown key"],
)
def test_24_a_training_that_storage_refuses_ends_with_2_before_ray_starts(
    s3_server: S3Server, tmp_path: Path, key: Key, bucket: str, said: str
):
    write_digits(tmp_path / "artifacts/tiny/shards")
    variables = s3_server.environment(key) | {"SEQGEN_STORAGE": f"s3://{bucket}/{tmp_path.name}"}
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.train", "--recipe", str(tiny_recipe(tmp_path)), "--workers", "1"],
        cwd=tmp_path,
        env=outside(**variables),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"s3://{bucket}/{tmp_path.name}/" in done.stderr
    assert said in done.stderr
    assert key.secret not in done.stdout + done.stderr
    assert "starting" not in done.stdout
    assert not (tmp_path / "artifacts/tiny/train").exists()


def test_dvc_pushes_to_s3_and_pulls_from_it_again(s3_proxy: FaultProxy, tmp_path: Path):
    project = tmp_path / "project"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, project / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copyfile(ROOT / name, project / name)
    tiny_recipe(project / "pipelines/recipes")
    (project / "params.yaml").write_text("recipes: [tiny]\n")

    def dvc(*arguments: str) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=project,
            env=outside(PYTHONPATH=str(project), PATH=path),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    dvc("init", "--no-scm", "-q")
    dvc("remote", "add", "-d", "storage", f"s3://runs/{tmp_path.name}/dvc")
    dvc("repro", "shard@tiny")
    products = project / "artifacts/tiny"
    made = {path: path.read_bytes() for path in products.rglob("*") if path.is_file()}
    s3_proxy.inject(Answer(503, "SlowDown"), lambda request: request.method == "PUT", times=2)
    dvc("push")
    assert [request.outcome for request in s3_proxy.requests].count(503) == 2
    shutil.rmtree(products)
    shutil.rmtree(project / ".dvc/cache")
    dvc("pull", "fetch@tiny", "shard@tiny")
    assert {path: path.read_bytes() for path in products.rglob("*") if path.is_file()} == made
    assert "Running stage" not in dvc("repro", "--dry", "shard@tiny")
    assert f"s3://runs/{tmp_path.name}/dvc" in (project / ".dvc/config").read_text()
    secret = ADMIN.secret.encode()
    assert not any(secret in path.read_bytes() for path in project.rglob("*") if path.is_file())
