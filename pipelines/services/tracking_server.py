"""MLflow's server on PostgreSQL and S3, on loopback, with a login: clients need no key of the storage."""

from __future__ import annotations

import importlib.util
import os
import sys

from pipelines.services import postgres, s3
from pipelines.services.place import Place
from pipelines.services.service import Service
from pipelines.tracking.server import reachable
from seqgen.core.errors import BadInput

USER = "seqgen"
# What the server needs of Python's packages, besides MLflow.
_PACKAGES = {"psycopg": "PostgreSQL's driver", "flask_wtf": "MLflow's login"}


def check() -> None:
    """Raise BadInput if a package that the server needs is not installed."""
    for package, what in _PACKAGES.items():
        if importlib.util.find_spec(package) is None:
            raise BadInput(
                f"the package {package} ({what}) is not installed: "
                "`uv pip install -c constraints.txt -e '.[services]'`"
            )


def tracking_server(place: Place, port: int) -> Service:
    """The server, whose one user, an administrator, is made at its first start."""
    place.write_secret(
        "auth.ini",
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = {postgres.uri(place, 'mlflow_auth')}\n"
        f"admin_username = {USER}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "auth_cache_ttl_seconds = 60\n",  # else every request costs a slow hash
    )
    others = {
        key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PG", "AWS_"))
    }
    environment = {
        **others,
        **s3.client_environment(place),
        "MLFLOW_BACKEND_STORE_URI": postgres.uri(place, "mlflow"),
        "PGPASSWORD": place.keys["postgres"],
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{s3.BUCKET}/mlflow",
        "MLFLOW_AUTH_CONFIG_PATH": str(place.root / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_USERNAME": USER,
        "MLFLOW_AUTH_ADMIN_PASSWORD": place.keys["mlflow"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": place.keys["session"],
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes more
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}"]
    command += ["--workers=1", "--serve-artifacts", "--app-name=basic-auth"]
    return Service(
        name="mlflow",
        address=uri(port),
        command=command,
        directory=place.root,
        environment=environment,
        answers=lambda: reachable(uri(port)),
    )


def uri(port: int) -> str:
    """Its address."""
    return f"http://127.0.0.1:{port}"


def client_environment(place: Place, port: int) -> dict[str, str]:
    """What MLflow's clients read to find it and to log in."""
    return {
        "MLFLOW_TRACKING_URI": uri(port),
        "MLFLOW_TRACKING_USERNAME": USER,
        "MLFLOW_TRACKING_PASSWORD": place.keys["mlflow"],
    }
