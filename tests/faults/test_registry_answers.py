"""A registry that refuses, is busy or has no such model is told apart by `seqgen.load` and `seqgen trace`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import seqgen
from pipelines.tracking import runs
from seqgen.core.errors import BadInput, OperationalError
from tests.fault_proxy import Answer, FaultProxy, Request
from tests.registries import said

pytestmark = pytest.mark.slow

LOGIN = "MLFLOW_TRACKING_TOKEN, to a login that may"


def asks_for_version(request: Request) -> bool:
    return "/registered-models/alias" in request.path or "/model-versions/get" in request.path


def lists(request: Request) -> bool:
    return "/registered-models/search" in request.path or "/model-versions/search" in request.path


def asks_for_run(request: Request) -> bool:
    return "/runs/get" in request.path


def as_mlflow(code: str) -> bytes:
    return json.dumps({"error_code": code, "message": "not today"}).encode()


@pytest.fixture
def name(proxy: FaultProxy, tmp_path: Path) -> str:
    """A registered model with one version, `@champion`, of a run that the server has."""
    name, client = tmp_path.name, runs.connect()
    run = client.create_run(runs.experiment_id(client))
    client.create_registered_model(name)
    client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias(name, "champion", "1")
    proxy.heal()
    return name


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        (Answer(401, body=b"log in"), BadInput, LOGIN),
        (Answer(403, body=b"not you"), BadInput, LOGIN),
        (Answer(403, body=as_mlflow("PERMISSION_DENIED")), BadInput, LOGIN),
        (Answer(404, body=b"<html>no such page</html>"), OperationalError, "does not serve us"),
        (Answer(429, body=as_mlflow("REQUEST_LIMIT_EXCEEDED")), OperationalError, "does not serve us"),
        (Answer(503, body=as_mlflow("TEMPORARILY_UNAVAILABLE")), OperationalError, "does not serve us"),
    ],
    ids=["401", "403", "403 of MLflow", "404 page", "429", "503"],
)
@pytest.mark.parametrize("which", ["@champion", "/1"])
def test_what_refuses_is_not_asked_what_else_it_has(
    proxy: FaultProxy, name: str, which: str, answer: Answer, error: type[Exception], told: str
) -> None:
    uri = f"models:/{name}{which}"
    proxy.inject(answer, asks_for_version, times=None)
    with pytest.raises(error, match=told) as raised:
        seqgen.load(uri)
    assert str(raised.value).startswith(f"{uri}: the registry ")
    assert not any(map(lists, proxy.requests))


def test_what_there_is_is_told_and_a_listing_that_is_refused_is_no_traceback(
    proxy: FaultProxy, name: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(BadInput, match="no such version; versions 1; aliases @champion = 1"):
        seqgen.load(f"models:/{name}@best")
    proxy.inject(Answer(403, body=b"not you"), lists, times=None)
    with pytest.raises(BadInput, match=LOGIN):
        seqgen.load(f"models:/{name}/7")
    code, out = said(capsys, "trace", f"models:/{name}/7")
    assert (code, out.count("\n")) == (2, 1)
    assert LOGIN in out


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        (Answer(403, body=as_mlflow("PERMISSION_DENIED")), 2, "refuses us (HTTP 403)"),
        (Answer(500, body=as_mlflow("INTERNAL_ERROR")), 1, "does not serve us"),
    ],
    ids=["403", "500"],
)
def test_a_run_that_may_not_be_looked_at_is_not_deleted(
    proxy: FaultProxy, name: str, answer: Answer, code: int, told: str, capsys: pytest.CaptureFixture
) -> None:
    proxy.inject(answer, asks_for_run, times=None)
    found, out = said(capsys, "trace", f"models:/{name}@champion")
    assert found == code
    assert told in out
    assert "deleted" not in out
