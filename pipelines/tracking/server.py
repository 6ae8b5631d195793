"""The tracking server: where it is, whether it answers, what its errors mean, and whether there must be one."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pipelines.tracking import sqlite_file
from seqgen.core.errors import BadInput, OperationalError, SeqgenError, one_line, redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

_REQUIRED = "SEQGEN_TRACKING_REQUIRED"
_TIMEOUT = 10  # seconds for one answer, of which a slow server takes several


class Away(OperationalError):
    """The tracking server does not answer, or cannot serve now: it may later."""


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


def required() -> bool:
    """SEQGEN_TRACKING_REQUIRED: whether a server that is away stops a verb (the default), or the spool stands in.

    It is the environment's and not a recipe's: it tells of the place a run is in. Raises BadInput.
    """
    value = os.environ.get(_REQUIRED, "true").lower()
    if value not in ("true", "false"):
        raise BadInput(f"{_REQUIRED}={value}: use true or false")
    return value == "true"


def secure_environment() -> None:
    """Set what our processes want of MLflow before they import it: no pickle, no telemetry, no chatter."""
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # It would print the run's address, and with it the password of MLFLOW_TRACKING_URI.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    # Its own seven retries take minutes; what a server did not take waits in the spool.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    for chatty in ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc", "urllib3.connectionpool"):
        logging.getLogger(chatty).setLevel(logging.ERROR)


def reachable(uri: str) -> bool:
    """Whether something answers at `uri` within 10 seconds, without retries; a SQLite file always does."""
    if uri.startswith("sqlite:"):
        return True
    import requests

    insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    verify = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or not insecure
    try:
        answer = requests.get(uri.rstrip("/") + "/health", timeout=_TIMEOUT, verify=verify)
        return answer.status_code < 500
    except requests.RequestException:
        return False


@contextlib.contextmanager
def short_retries() -> Iterator[None]:
    """A check wants its answer in at most 30 seconds, whatever time the server asks to be left alone for."""
    settings = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(_TIMEOUT),
        "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    }
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

    Raises BadInput for a store of the wrong kind, for a login that is refused, and for a SQLite file whose artifacts
    are not beside it; within 30 seconds Away for one that does not answer. No message holds the password.
    """
    uri = uri or tracking_uri()
    secure_environment()
    from mlflow import MlflowClient

    try:
        if uri.startswith("sqlite:///"):
            database = Path(uri.removeprefix("sqlite:///"))
            sqlite_file.make(database)
            sqlite_file.follow(database)
        with short_retries():
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
    except Exception as error:
        raise failure(uri, error) from None
    return client


def server_errors() -> tuple[type[Exception], ...]:
    """What MLflow's client raises for a server or an artifact store that does not serve us."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    return MlflowException, RequestException, Boto3Error, BotoCoreError, ClientError


def status_of(error: BaseException) -> int:
    """The HTTP status that an error of MLflow's client stands for; 500 for any other."""
    return getattr(error, "get_http_status_code", lambda: 500)()


def is_final(error: BaseException) -> bool:
    """Whether trying again cannot help: a refusal, 4xx, but for time-out and rate limit, or a wrong login."""
    status = status_of(error)
    return isinstance(error, BadInput) or (400 <= status < 500 and status not in (408, 429))


def failure(uri: str, error: BaseException) -> SeqgenError:
    """An error of the tracking server as ours: BadInput for a login that is refused, else Away."""
    if isinstance(error, SeqgenError):
        return error
    if status_of(error) in (401, 403):
        return BadInput(
            f"the tracking server {redact(uri)} refuses us (HTTP {status_of(error)}); set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to a login that it "
            "knows and that may write"
        )
    return Away(explain(uri, error))


def explain(uri: str, error: BaseException) -> str:
    """One line for an error of the tracking server, without the password."""
    if isinstance(error, SeqgenError):
        return str(error)
    return (
        f"the tracking server {redact(uri)} does not serve us ({_reason(error)}); start it, or set "
        "MLFLOW_TRACKING_URI (unset: a local SQLite file)"
    )


def _reason(error: BaseException) -> str:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "its TLS certificate is not trusted; MLFLOW_TRACKING_SERVER_CERT_PATH names the file of its authority"
    if "SSLError" in text:
        return "TLS failed: is it an http:// server?"
    if "<html" in text.lower():
        return "it answered with a web page, as a proxy or another server does"
    return one_line(error)


def warn(text: str) -> None:
    """Say what went wrong and stops nothing."""
    print(f"warning: {text}", file=sys.stderr, flush=True)
