"""The MLflow server of infra/ as its manifest starts it, on a real PostgreSQL: login, hosts, backup and restore."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import requests

from tests.free_ports import free_ports
from tests.infra.kube import documents, pod_templates
from tests.infra.postgres import Postgres, clients, program

INFRA = Path(__file__).parents[2] / "infra"
ADMIN = ("admin", "of-the-administrator")
MISSING = [
    what
    for what, found in (
        ("PostgreSQL", program("initdb")),
        ("psycopg", importlib.util.find_spec("psycopg")),
        ("Flask-WTF", importlib.util.find_spec("flask_wtf")),
    )
    if not found
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed here: {', '.join(MISSING)}"),
]


class Site(NamedTuple):
    database: Postgres
    port: int
    log: Path

    def get(self, path: str, **options: object) -> requests.Response:
        return requests.get(f"http://127.0.0.1:{self.port}{path}", timeout=30, **options)  # type: ignore[arg-type]

    def post(self, path: str, body: dict[str, object], **options: object) -> requests.Response:
        url = f"http://127.0.0.1:{self.port}{path}"
        return requests.post(url, json=body, timeout=30, **options)  # type: ignore[arg-type]


def server_command(port: int, artifacts: Path) -> list[str]:
    """The manifest's, on loopback, on this port, with artifacts in a directory."""
    (pod,) = [
        template
        for template in pod_templates(documents(INFRA / "kubernetes/mlflow.yaml"))
        if template["spec"]["containers"][0]["name"] == "mlflow"
    ]
    command = pod["spec"]["containers"][0]["command"]
    changed = {"--host": "127.0.0.1", "--port": str(port), "--artifacts-destination": str(artifacts)}
    given = [
        f"{name}={changed.get(name, value)}" if value else name
        for name, _, value in (word.partition("=") for word in command[1:])
    ]
    return [sys.executable, "-m", "mlflow", *(word.replace(":5000", f":{port}") for word in given)]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        directory.chmod(0o755)  # PostgreSQL runs as somebody else
        database = Postgres(directory / "postgres")
        database.start()
        (port,) = free_ports(1)
        settings = {
            "MLFLOW_AUTH_CONFIG_PATH": str(INFRA / "mlflow/basic_auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-the-forms",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        made = Site(database, port, directory / "server.log")
        with made.log.open("wb") as log:
            server = subprocess.Popen(
                server_command(port, directory / "artifacts"), cwd=directory, stdout=log, stderr=log,
                env={**os.environ, **database.environment, **settings}, start_new_session=True,
            )  # fmt: skip
        try:
            deadline = time.monotonic() + 300
            while True:
                assert server.poll() is None, made.log.read_text()
                assert time.monotonic() < deadline, made.log.read_text()
                try:
                    if made.get("/health").ok:
                        break
                except requests.RequestException:
                    time.sleep(0.5)
            yield made
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            database.stop()


EXPERIMENTS = "/api/2.0/mlflow/experiments/search?max_results=1"


def test_only_who_logs_in_is_answered(site: Site) -> None:
    for login in (None, ("admin", "password1234"), ("admin", "wrong"), ("nobody", ADMIN[1])):
        assert site.get(EXPERIMENTS, auth=login).status_code == 401
    assert site.get(EXPERIMENTS, auth=ADMIN).status_code == 200
    new = {"username": "seqgen", "password": "of-the-training"}
    assert site.post("/api/2.0/mlflow/users/create", new).status_code == 401
    assert site.post("/api/2.0/mlflow/users/create", new, auth=ADMIN).status_code == 200
    own = ("seqgen", "of-the-training")
    made = site.post("/api/2.0/mlflow/experiments/create", {"name": "seqgen"}, auth=own)
    assert made.status_code == 200
    number = made.json()["experiment_id"]
    other = {"username": "reader", "password": "of-the-readers"}
    assert site.post("/api/2.0/mlflow/users/create", other, auth=ADMIN).status_code == 200
    renamed = {"experiment_id": number, "new_name": "taken over"}
    refused = site.post("/api/2.0/mlflow/experiments/update", renamed, auth=("reader", "of-the-readers"))
    assert refused.status_code == 403
    assert (
        site.get(f"/api/2.0/mlflow/experiments/get?experiment_id={number}", auth=own).json()["experiment"][
            "name"
        ]
        == "seqgen"
    )
    log = site.log.read_text()
    assert not [secret for secret in (ADMIN[1], "of-the-training", "of-the-database") if secret in log]


def test_a_host_that_it_was_not_told_of_is_refused(site: Site) -> None:
    for host in (f"mlflow.mlflow.svc:{site.port}", f"localhost:{site.port}"):
        assert site.get(EXPERIMENTS, auth=ADMIN, headers={"Host": host}).status_code == 200
    refused = site.get(EXPERIMENTS, auth=ADMIN, headers={"Host": "rebound.example:5000"})
    assert refused.status_code == 403
    assert "Host" in refused.text
    assert site.get("/health", headers={"Host": "10.1.2.3:5000"}).status_code == 200  # the kubelet's probe


def test_a_backup_brings_everything_back(site: Site, tmp_path: Path) -> None:
    environment = {**os.environ, **site.database.environment, "PATH": clients()}
    assert (
        site.post("/api/2.0/mlflow/experiments/create", {"name": "to be kept"}, auth=ADMIN).status_code == 200
    )
    old, partial = tmp_path / "mlflow-20200101T000000Z.dump", tmp_path / "mlflow-20200101T000000Z.dump.part"
    for path in (old, partial):
        path.touch()
        os.utime(path, (0, 0))
    backup = [str(INFRA / "mlflow/backup.sh"), str(tmp_path)]
    assert subprocess.run(backup, env=environment).returncode == 0
    (dump,) = tmp_path.iterdir()  # those of long ago are gone
    assert site.database.sql("SELECT count(*) FROM experiments WHERE name = 'to be kept'") == "1"
    site.database.sql("DELETE FROM experiments WHERE name = 'to be kept'")
    (restore,) = [
        line.partition("Back: ")[2].replace("FILE", str(dump))
        for line in (INFRA / "mlflow/backup.sh").read_text().splitlines()
        if "Back: " in line
    ]
    assert subprocess.run(restore.split(), env=environment).returncode == 0
    assert site.database.sql("SELECT count(*) FROM experiments WHERE name = 'to be kept'") == "1"
    assert site.database.sql("SELECT count(*) FROM users WHERE username = 'admin'") == "1"


def test_a_backup_that_fails_leaves_no_dump(site: Site, tmp_path: Path) -> None:
    environment = {**os.environ, **site.database.environment, "PATH": clients(), "PGPASSWORD": "wrong"}
    done = subprocess.run(
        [str(INFRA / "mlflow/backup.sh"), str(tmp_path)], env=environment, capture_output=True
    )
    assert done.returncode != 0
    assert not list(tmp_path.glob("*.dump"))
