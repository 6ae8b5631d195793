"""What the chapters share: a training that nothing disturbed, a place for one that something will, recipes, MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.recipes import load_recipe
from pipelines.storage import Store, open_store
from pipelines.tracking import metrics
from seqgen.data.manifest import Manifest, read_manifest
from seqgen.settings import Recipe
from tests.fault_proxy import FaultProxy
from tests.finished_run import tiny_recipe, work_in
from tests.mlflow_server import MlflowServer
from tests.s3_server import S3Server
from tests.sets import write_digits
from tests.train_runs import EPOCHS, assert_complete, prepare_unhurried, train, weights


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the weights of a run that nothing disturbed."""
    place = prepare_unhurried(tmp_path_factory.mktemp("undisturbed"))
    done = train(place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"epoch {EPOCHS}/{EPOCHS}" in done.stdout
    assert_complete(place)
    return weights(place)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working directory with a recipe and its shards."""
    return prepare_unhurried(tmp_path)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe of digits in an empty working directory, with nothing of it made yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEQGEN_ARTIFACTS", raising=False)
    return load_recipe(str(tiny_recipe(tmp_path)))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an empty MLflow store, and an empty registry, in a SQLite file."""
    work_in(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server for the tests of a file; each has runs, and a model name, of its own there."""
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own, where a server that is away is asked again at once."""
    for name in ("SEQGEN_ARTIFACTS", "SEQGEN_STORAGE", "SEQGEN_STATE", "SEQGEN_TRACKING_REQUIRED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(metrics, "_PAUSE", 0.2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def proxy(server: MlflowServer, project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Before the server; MLFLOW_TRACKING_URI is its address."""
    with FaultProxy(server.port) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.address)
        yield proxy


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe's file and its shards, outside every working directory."""
    directory = tmp_path_factory.mktemp("set")
    write_digits(directory / "shards")
    return tiny_recipe(directory), directory / "shards"


@pytest.fixture(scope="module")
def manifest(files: tuple[Path, Path]) -> Manifest:
    """That of the shards of `files`."""
    return read_manifest(files[1])


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with the bucket `runs`, for the tests of a file."""
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        server.client().create_bucket(Bucket="runs")
        yield server


@pytest.fixture
def s3_proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Before that server, at AWS_ENDPOINT_URL, with its administrator's key."""
    with FaultProxy(s3_server.port) as proxy:
        for name, value in s3_server.environment(endpoint=proxy.address).items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def outage(s3_proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[FaultProxy, Store]:
    """The proxy before an S3 server, and a store behind it that does not ask twice: what lasts a second is noticed."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return s3_proxy, open_store(f"s3://runs/{tmp_path.name}")
