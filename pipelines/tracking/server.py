"""The tracking server: where it is, whether it answers, what its errors mean."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from seqgen.core.errors import BadInput, OperationalError, one_line, redact

if TYPE_CHECKING:
    from mlflow import MlflowClient


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, else `sqlite:///<working directory>/mlflow.db`. A SQLite path comes back absolute.

    Raises BadInput for a store that is neither a server (http, https) nor a SQLite file.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).resolve()}"
    if urlsplit(uri).scheme not in ("http", "https"):
        raise BadInput(
            f"MLFLOW_TRACKING_URI={redact(uri)}: use http(s)://<server> or sqlite:///<file>; "
            "file stores are no longer kept by MLflow, and a database is reached through `mlflow server`"
        )
    return uri


def secure_environment() -> None:
    """Set what our processes want of MLflow before they import it: no pickle, no telemetry, no chatter."""
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # It would print the run's address, and with it the password of MLFLOW_TRACKING_URI.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    for chatty in ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def reachable(uri: str) -> bool:
    """Whether something answers at `uri` within 5 seconds, without retries; a SQLite file always does."""
    if uri.startswith("sqlite:"):
        return True
    import requests

    try:
        return requests.get(uri.rstrip("/") + "/health", timeout=5).status_code < 500
    except requests.RequestException:
        return False


@contextlib.contextmanager
def short_retries() -> Iterator[None]:
    """MLflow's HTTP client retries for minutes; a check wants its answer in at most 30 seconds."""
    settings = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def connect(uri: str | None = None) -> MlflowClient:
    """A client of the tracking server that has answered. `uri` defaults to `tracking_uri()`.

    Raises BadInput for a store of the wrong kind and, within 30 seconds, OperationalError for one that does
    not answer or refuses us; no message holds the password.
    """
    uri = uri or tracking_uri()
    secure_environment()
    from mlflow import MlflowClient

    try:
        with short_retries():
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
    except Exception as error:
        raise OperationalError(explain(uri, error)) from None
    return client


def server_errors() -> tuple[type[Exception], ...]:
    """What MLflow's client raises for a server or an artifact store that does not serve us."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    return MlflowException, RequestException, Boto3Error, BotoCoreError, ClientError


def explain(uri: str, error: Exception) -> str:
    """One line for an error of the tracking server, without the password."""
    return (
        f"the tracking server {redact(uri)} does not serve us ({one_line(error)}); start it, or set "
        "MLFLOW_TRACKING_URI (unset: a local SQLite file)"
    )
