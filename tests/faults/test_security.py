"""Secrets stay where they were put, and nobody gets in who was not let in: on real runs, servers and clusters."""

from __future__ import annotations

import base64
import dataclasses
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
import requests
from ray.core.generated.ray_client_pb2 import ClusterInfoRequest
from ray.core.generated.ray_client_pb2_grpc import RayletDriverStub

from tests.cluster_site import RAY, ROOT, VERB, Site, cluster_site
from tests.finished_run import outside, tiny_recipe
from tests.free_ports import free_ports
from tests.mlflow_server import MlflowServer
from tests.planted import PASSWORD, SECRETS, USER, found

pytestmark = pytest.mark.slow


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory for Ray's sessions, with a path that sockets can have."""
    directory = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def test_a_secret_that_is_written_down_is_found(tmp_path: Path):
    assert not found(tmp_path, text="nothing")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/log").write_bytes(b"\0\1 uri=http://seqgen:" + PASSWORD.encode() + b"@host \xff")
    (tmp_path / "deep/header").write_bytes(base64.b64encode(f"{USER}:{PASSWORD}".encode()))
    assert len(found(tmp_path, text=SECRETS["RAY_AUTH_TOKEN"])) == 3


def test_no_output_artifact_log_or_database_has_a_secret(tmp_path: Path, short: Path):
    work, served, home = (tmp_path / name for name in ("work", "server", "home"))
    for directory in (work, served, home):
        directory.mkdir()
    recipe = str(tiny_recipe(work))
    server = MlflowServer(served)
    address = server.uri.removeprefix("http://")
    (dead,) = free_ports(1)
    environment = outside(
        **SECRETS,
        HOME=str(home),
        RAY_AUTH_MODE="token",
        RAY_TMPDIR=str(short),
        MLFLOW_TRACKING_URI=f"http://{USER}:{PASSWORD}@{address}",
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{dead}",
        AWS_MAX_ATTEMPTS="1",
    )
    said: list[str] = []

    def verb(name: str, *arguments: str, **changes: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", f"pipelines.{name}", *arguments], cwd=work, env={**environment, **changes},
            text=True, timeout=900, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said.append(f"--- {name} {' '.join(arguments)}: {done.returncode}\n{done.stdout}")
        return done.returncode, done.stdout

    server.start()
    try:
        small = ("--set", "evaluate.images=64")
        for name in ("fetch", "shard", "train", "evaluate", "register", "report"):
            assert verb(name, "--recipe", recipe, *small)[0] == 0, said[-1]
        assert "version 1" in "".join(said), "it is not on the server whose address has a password"
        code, text = verb("retrain", "--recipe", recipe, *small)
        assert (code, "nothing to do" in text) == (0, True), text
        # What fails, each for another reason.
        mirror = ("fetch", "--recipe", recipe, "--set", "data.source=mnist")
        assert verb(*mirror, SEQGEN_MIRROR="s3://bucket/prefix")[0] in (1, 2), said[-1]
        code, text = verb("doctor", "ray", "storage", "tracking", SEQGEN_STORAGE="s3://bucket/prefix")
        assert (code, "failed   storage" in text, "tracking" in text) == (1, True, True), text
    finally:
        server.kill()
    assert verb("register", "--recipe", recipe, *small)[0] == 1, said[-1]
    assert verb("doctor", "tracking")[0] == 1, said[-1]
    # A run that ends while the server is away: its status waits in the spool.
    closing = "from pipelines.tracking.runs import close_run; assert not close_run('1' * 32, 'FAILED')"
    done = subprocess.run(
        [sys.executable, "-c", closing], cwd=work, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    said.append(done.stdout)
    assert done.returncode == 0, done.stdout
    assert list((work / ".seqgen/spool").iterdir())
    assert verb("replay")[0] == 1, said[-1]
    assert list(short.rglob("*.log")), "Ray's log files are elsewhere"
    assert not found(work, served, home, short, text="".join(said))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Path]]:
    """A head that was started with secrets in its environment, and where Ray keeps its session."""
    sessions = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    planted = {**SECRETS, "MLFLOW_TRACKING_URI": f"http://{USER}:{PASSWORD}@127.0.0.1:9"}
    try:
        with cluster_site(
            tmp_path_factory.mktemp("site"), **planted, RAY_TMPDIR=str(sessions), RAY_AUTH_MODE="token"
        ) as site:
            yield site, sessions
    finally:
        shutil.rmtree(sessions, ignore_errors=True)


def test_who_has_no_token_or_another_one_submits_nothing(cluster: tuple[Site, Path], tmp_path: Path):
    site, _ = cluster
    without = {key: value for key, value in site.environment.items() if key != "RAY_AUTH_TOKEN"}
    stranger = dataclasses.replace(site, environment={**without, "HOME": str(tmp_path)})
    submit = (RAY, "job", "submit", "--address", site.dashboard, "--", "touch", str(tmp_path / "ran"))
    for code, text in (
        stranger.call(*submit, RAY_AUTH_MODE="disabled"),
        stranger.call(*submit, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="x" * 40),
    ):
        assert code != 0
        assert "authentication token" in text.lower()
    bad = {"Authorization": "Bearer " + "x" * 40}
    for path, method in (("/api/jobs/", "GET"), ("/api/jobs/", "POST"), ("/api/jobs/x", "DELETE")):
        plain = requests.request(method, site.dashboard + path, json={"entrypoint": "true"}, timeout=30)
        wrong = requests.request(method, site.dashboard + path, json={}, headers=bad, timeout=30)
        assert (plain.status_code, wrong.status_code) == (401, 403)
    assert not (tmp_path / "ran").exists()


def program(process: psutil.Process) -> str:
    """`raylet`, `ray` for its workers and agents, and the file or module that a Python runs."""
    name, words = process.name().split(":")[0], process.cmdline()
    if not name.startswith("python"):
        return name
    if "-m" in words:
        return words[words.index("-m") + 1]
    return next((Path(word).name for word in words if word.endswith(".py")), " ".join(words))


def test_dashboard_is_on_loopback_and_every_other_port_is_of_the_list(cluster: tuple[Site, Path]):
    site, _ = cluster
    open_to: dict[tuple[str, int], str] = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAY_AUTH_TOKEN") == SECRETS["RAY_AUTH_TOKEN"]:
                for socket in process.net_connections("tcp"):
                    if socket.status == psutil.CONN_LISTEN:
                        address = socket.laddr.ip.removeprefix("::ffff:")
                        open_to[address, socket.laddr.port] = program(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    port = int(site.dashboard.rpartition(":")[2])
    assert [address for address, of in open_to if of == port] == ["127.0.0.1"]
    programs = {name for (address, _), name in open_to.items() if address not in ("127.0.0.1", "::1")}
    assert {"gcs_server", "raylet"} <= programs
    page = (ROOT / "docs/security.md").read_text()
    assert not [name for name in programs if f"`{name}`" not in page]

    # The one of them by which a program from outside runs code.
    for (address, number), name in open_to.items():
        if name == "ray.util.client.server":
            with grpc.insecure_channel(f"{address}:{number}") as channel:
                ask = RayletDriverStub(channel).ClusterInfo
                with pytest.raises(grpc.RpcError) as refused:
                    ask(ClusterInfoRequest(), timeout=60)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_jobs_inherit_the_rules_and_show_no_secret(cluster: tuple[Site, Path]):
    site, sessions = cluster
    rules = ("RAY_JOB_STOP_WAIT_TIME_S", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "RAY_AUTH_MODE")
    submit = (RAY, "job", "submit", "--address", site.dashboard, "--working-dir", str(ROOT), "--")
    code, text = site.call(*submit, "printenv", *rules)
    assert code == 0, text
    assert "150\nfalse\ntoken\n" in text
    # A verb that fails at the tracking server, whose address has a password.
    recipe = tiny_recipe(site.where)
    code, failed = site.call(*submit, "python", "-m", "pipelines.register", "--recipe", str(recipe))
    assert code == 1
    login = {"Authorization": f"Bearer {SECRETS['RAY_AUTH_TOKEN']}"}
    shown = ""
    for path in (
        "/api/jobs/",
        "/api/v0/jobs",
        "/api/v0/actors",
        "/api/v0/nodes",
        "/api/v0/workers",
        "/api/v0/runtime_envs",
    ):
        answer = requests.get(site.dashboard + path, headers=login, timeout=60)
        assert answer.status_code == 200
        shown += answer.text
    assert "raysubmit_" in shown
    _, status = site.call(*VERB, "status")
    assert not found(site.where, sessions, text=text + failed + shown + status)


def test_a_cluster_that_a_verb_starts_is_closed_too(tmp_path: Path):
    """Its dashboard, where a search has one, is on loopback and wants a token."""
    looking = (
        "import os, urllib.error, urllib.request\n"
        "from pipelines.cluster.connect import connected\n"
        "with connected(dashboard=True):\n"
        "    address = os.environ['RAY_API_SERVER_ADDRESS']\n"
        "    try:\n"
        "        print(address, urllib.request.urlopen(address + '/api/jobs/').status)\n"
        "    except urllib.error.HTTPError as error:\n"
        "        print(address, error.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", looking], cwd=tmp_path, env=outside(HOME=str(tmp_path)), capture_output=True,
        text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    address, status = done.stdout.split()[-2:]
    assert address.startswith("http://127.0.0.1:")
    assert status == "401"
