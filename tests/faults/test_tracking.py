"""Tracking, cases 38 to 40: a server that is away, slow, wrong or refuses; drivers that are killed."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run

from pipelines import replay
from pipelines.recipes import load_recipe
from pipelines.register import register_trained
from pipelines.tracking import metrics, runs
from pipelines.tracking.server import Away, reachable
from pipelines.tracking.spool import RunSpool, is_local, spool_directory, spools
from seqgen.core.errors import BadInput, OperationalError
from seqgen.data.manifest import Manifest, read_manifest
from seqgen.settings import Recipe
from tests.fault_proxy import Answer, CutAnswer, FaultProxy, Reset, Slow
from tests.finished_run import finished_run, outside, tiny_recipe
from tests.mlflow_server import MlflowServer
from tests.sets import write_digits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
PAGE = b"<html><body>502 Bad Gateway</body></html>"
LOG_BATCH = "runs/log-batch"
# A driver as `train` is one: it opens its run, tells, waits for a line, logs 50 steps, tells, and waits again.
DRIVER = """
import sys
from pathlib import Path
from pipelines.recipes import load_recipe
from pipelines.tracking import runs
from seqgen.data.manifest import read_manifest

run_id = runs.open_run(load_recipe(sys.argv[1]), read_manifest(Path(sys.argv[2])))
print(run_id, flush=True)
sys.stdin.readline()
log = runs.MetricLog(runs.tracking_uri(), run_id)
for step in range(1, 51):
    log.log({"a": float(step)}, step)
print("logged", flush=True)
sys.stdin.readline()
log.close(5)
runs.attach(run_id, Path(sys.argv[1]), "train")
runs.close_run(run_id, "FINISHED")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def proxy(server: MlflowServer, here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Before the server; MLFLOW_TRACKING_URI is its address."""
    with FaultProxy(server.port) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.address)
        yield proxy


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own, where a server that is away is asked again at once."""
    for name in ("SEQGEN_ARTIFACTS", "SEQGEN_STORAGE", "SEQGEN_STATE", "SEQGEN_TRACKING_REQUIRED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(metrics, "_PAUSE", 0.2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe's file and its shards."""
    directory = tmp_path_factory.mktemp("set")
    write_digits(directory / "shards")
    return tiny_recipe(directory), directory / "shards"


@pytest.fixture(scope="module")
def recipe(files: tuple[Path, Path]) -> Recipe:
    return load_recipe(str(files[0]))


@pytest.fixture(scope="module")
def manifest(files: tuple[Path, Path]) -> Manifest:
    return read_manifest(files[1])


class Driver:
    """DRIVER as a process, whose run is open; `go` lets it take its next step."""

    def __init__(self, files: tuple[Path, Path], uri: str, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, *map(str, files)],
            env=outside(MLFLOW_TRACKING_URI=uri, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0", **variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []
        self.run_id = self.hear()

    def hear(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate()[1])
        self.said.append(line)
        return line.strip()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def end(self) -> str:
        """All that it printed."""
        out, err = self.process.communicate()
        return "".join([*self.said, out, err])


def steps(run_id: str, key: str = "a") -> list[int]:
    return sorted(metric.step for metric in runs.connect().get_metric_history(run_id, key))


def run_of(run_id: str) -> Run:
    return runs.connect().get_run(run_id)


def log_steps(run_id: str, first: int, last: int, timeout: float = 60) -> bool:
    log = runs.MetricLog(runs.tracking_uri(), run_id)
    for step in range(first, last + 1):
        log.log({"a": float(step)}, step)
    return log.close(timeout)


def contents(directory: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in directory.rglob("*") if path.is_file())


# 38: the server is down


@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_38_a_server_that_is_away_at_the_start_ends_the_verb_with_code_1(
    kind: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """Within 30 seconds: at most two attempts of ten seconds, here counted."""
    write_digits(tmp_path / "artifacts/tiny/shards")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if kind == "closed":
            listener.close()
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.train", "--recipe", str(files[0])],
            cwd=tmp_path,
            env=outside(MLFLOW_TRACKING_URI=f"http://ann:canary@127.0.0.1:{port}"),
            capture_output=True,
            text=True,
        )
        attempts = 0
        if kind == "silent":
            listener.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                while True:
                    listener.accept()[0].close()
                    attempts += 1
    assert done.returncode == 1, done.stderr
    assert f"http://***@127.0.0.1:{port}" in done.stderr
    assert "canary" not in done.stdout + done.stderr
    assert attempts == (2 if kind == "silent" else 0)
    assert not list((tmp_path / ".seqgen").glob("spool/*"))


def test_38_a_server_that_need_not_be_there_gets_the_whole_run_later(
    proxy: FaultProxy,
    here: Path,
    recipe: Recipe,
    manifest: Manifest,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    proxy.down()
    with pytest.raises(Away):
        runs.check()
    monkeypatch.setenv("SEQGEN_TRACKING_REQUIRED", "false")
    runs.check()
    study = runs.open_run(recipe, manifest, name="study", kind="study")
    local = runs.open_run(recipe, manifest, parent=study, name="away")
    assert is_local(local)
    (here / "picture.png").write_bytes(b"png")
    assert not log_steps(local, 1, 5)
    # It is interrupted and gone on with, still without a server.
    runs.close_run(local, "KILLED")
    assert runs.open_run(recipe, manifest, run_id=local) == local
    assert not log_steps(local, 4, 8)
    assert not runs.close_run(local, "FINISHED")
    assert not runs.attach(local, here / "picture.png", "train")
    assert not runs.log_measured(local, {"test/bound": 1.5}, 8)
    assert not runs.close_run(study, "FINISHED")
    said = capfd.readouterr().err
    assert "python -m pipelines.replay" in said

    proxy.up()
    with pytest.raises(OperationalError, match=r"python -m pipelines\.replay"):
        runs.id_on_server(runs.connect(), local)
    for _ in range(2):
        replay.replay()
        run_id = runs.id_on_server(runs.connect(), local)
        assert steps(run_id) == list(range(1, 9))
    run = run_of(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "away"
    assert run.data.params["train.learning_rate"] == "0.001"
    assert run.data.metrics["test/bound"] == 1.5
    assert run.data.tags["mlflow.parentRunId"] == runs.id_on_server(runs.connect(), study)
    client = runs.connect()
    assert [item.path for item in client.list_artifacts(run_id, "train")] == ["train/picture.png"]
    named = client.search_runs([runs.experiment_id(client)], f"tags.`seqgen.opened_as` = '{local}'")
    assert len(named) == 1
    assert not list(spool_directory().iterdir())
    # What is done later for the run that had a local id goes to the server.
    assert runs.log_measured(local, {"test/bound": 1.25}, 8)
    assert run_of(run_id).data.metrics["test/bound"] == 1.25


def test_38_a_run_begun_without_a_server_goes_on_with_it(
    proxy: FaultProxy, recipe: Recipe, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQGEN_TRACKING_REQUIRED", "false")
    proxy.down()
    local = runs.open_run(recipe, manifest)
    log_steps(local, 1, 5)
    runs.close_run(local, "KILLED")
    proxy.up()
    run_id = runs.open_run(recipe, manifest, run_id=local)
    assert not is_local(run_id)
    assert run_of(run_id).info.status == "RUNNING"
    assert log_steps(run_id, 4, 8)
    assert runs.close_run(run_id, "FINISHED")
    assert steps(run_id) == list(range(1, 9))
    assert not list(spool_directory().iterdir())


def test_38_what_a_killed_driver_had_not_sent_is_sent_once_by_another_process(
    proxy: FaultProxy, files: tuple[Path, Path], recipe: Recipe, manifest: Manifest
) -> None:
    """And its run is closed as KILLED when a verb starts, but not that of a driver that lives."""
    killed, alive = Driver(files, proxy.address), Driver(files, proxy.address)
    try:
        proxy.down()
        killed.go()
        assert killed.hear() == "logged"
        killed.kill()
        proxy.up()
        assert run_of(killed.run_id).info.status == "RUNNING"
        runs.check()
        assert run_of(killed.run_id).info.status == "KILLED"
        assert run_of(alive.run_id).info.status == "RUNNING"

        replay.replay()
        assert steps(killed.run_id) == list(range(1, 51))
        assert run_of(killed.run_id).info.status == "KILLED"
        assert [spool.run_id for spool in spools()] == [alive.run_id]

        assert runs.open_run(recipe, manifest, run_id=killed.run_id) == killed.run_id
        assert run_of(killed.run_id).info.status == "RUNNING"
        assert log_steps(killed.run_id, 41, 60)
        assert runs.close_run(killed.run_id, "FINISHED")
        assert steps(killed.run_id) == list(range(1, 61))

        proxy.down()
        alive.go()
        assert alive.hear() == "logged"
        alive.kill()
        proxy.up()
        # Gone on with at once, without a replay: its spool is taken over.
        assert runs.open_run(recipe, manifest, run_id=alive.run_id) == alive.run_id
        assert log_steps(alive.run_id, 60, 60)
        assert steps(alive.run_id) == [*range(1, 51), 60]
        assert runs.close_run(alive.run_id, "FINISHED")
    finally:
        killed.kill()
        alive.kill()
    assert not list(spool_directory().iterdir())


def test_38_a_driver_killed_while_it_opens_its_run_leaves_none_running(
    proxy: FaultProxy, files: tuple[Path, Path]
) -> None:
    """The server has made the run, and the driver dies before it hears of it."""
    proxy.inject(CutAnswer(after=0), where=lambda request: request.path.endswith("runs/create"))
    proxy.inject(Reset(), where=lambda request: "runs/" in request.path, times=None)
    with pytest.raises(AssertionError, match="does not serve us"):
        Driver(files, proxy.address)
    proxy.heal()
    (left,) = spools()
    client = runs.connect()
    of_it = f"tags.`seqgen.opened_as` = '{left.run_id}'"
    (run,) = client.search_runs([runs.experiment_id(client)], of_it)
    assert run.info.status == "RUNNING"
    runs.check()
    assert run_of(run.info.run_id).info.status == "KILLED"


def test_38_a_server_killed_in_the_middle_gets_each_step_once(
    server: MlflowServer, here: Path, recipe: Recipe, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logging goes on at once; what the server missed reaches it when it is back."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    run_id = runs.open_run(recipe, manifest)
    log = runs.MetricLog(server.uri, run_id)
    log.log({"a": 1.0}, 1)
    wait_until(lambda: steps(run_id) == [1])
    server.kill()
    for step in range(2, 1002):  # were this to wait for the server, it would wait for ever
        log.log({"a": 1.0}, step)
    assert len(RunSpool.of(run_id).metrics.read()) == 1000
    server.start()
    assert log.close(timeout=300)
    assert steps(run_id) == list(range(1, 1002))
    assert runs.close_run(run_id, "FINISHED")


def test_38_a_training_outlives_the_server(proxy: FaultProxy, files: tuple[Path, Path], here: Path) -> None:
    """Down at its end: code 0, and a warning with the command that sends the rest."""
    write_digits(here / "artifacts/tiny/shards")
    environment = outside(
        MLFLOW_TRACKING_URI=proxy.address,
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
        RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="600",
    )
    command = [sys.executable, "-m", "pipelines.train", "--recipe", str(files[0]), "--set=train.epochs=3"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as training:
        assert training.stdout is not None
        for line in training.stdout:
            if line.startswith("starting"):  # the run is open
                proxy.down()
        assert training.stderr is not None
        warnings = training.stderr.read()
    assert training.returncode == 0, warnings
    assert "python -m pipelines.replay" in warnings

    proxy.up()
    replay.replay()
    run_id = json.loads((here / "artifacts/tiny/train/run.json").read_text())["run_id"]
    run = run_of(run_id)
    assert run.info.status == "FINISHED"
    assert len(steps(run_id, "train/free_energy")) == len(set(steps(run_id, "train/free_energy"))) == 3
    attached = [item.path for item in runs.connect().list_artifacts(run_id, "train")]
    assert attached == ["train/history.csv", "train/recipe.json"]
    assert not list(spool_directory().iterdir())


def test_38_registering_wants_the_server(proxy: FaultProxy, here: Path) -> None:
    trained = finished_run(tiny_recipe(here))
    proxy.down()
    with pytest.raises(OperationalError, match=proxy.address) as caught:
        register_trained(trained)
    assert caught.value.exit_code == 1


# 39: the server is slow


def test_39_no_row_waits_for_a_server_that_takes_5_seconds_a_call(
    proxy: FaultProxy, recipe: Recipe, manifest: Manifest
) -> None:
    """All rows are taken while the first call still waits for its answer; in the end the server has them."""
    run_id = runs.open_run(recipe, manifest)
    proxy.heal()
    proxy.inject(Slow(5.0), times=None)
    log = runs.MetricLog(proxy.address, run_id)
    log.log({"a": 0.0}, 0)
    wait_until(lambda: bool(proxy.requests))
    for step in range(1, 201):
        log.log({"a": float(step)}, step)
    assert [request.outcome for request in proxy.requests] == ["in progress"]
    assert len(RunSpool.of(run_id).metrics.read()) == 201
    assert log.close(timeout=300)
    proxy.heal()
    assert steps(run_id) == list(range(201))
    assert runs.close_run(run_id, "FINISHED")


# 40: the server answers what it should not


@pytest.mark.parametrize(
    "fault",
    [Answer(429), Answer(500), Answer(502, body=PAGE), Answer(200, body=PAGE), Reset(), CutAnswer(after=0)],
    ids=["429", "500", "502 page", "200 page", "reset", "answer lost"],
)
def test_40_what_passes_is_tried_again_and_nothing_is_doubled(
    fault: Answer | Reset | CutAnswer, proxy: FaultProxy, recipe: Recipe, manifest: Manifest
) -> None:
    run_id = runs.open_run(recipe, manifest)
    proxy.inject(fault, where=lambda request: LOG_BATCH in request.path, times=3)
    assert log_steps(run_id, 1, 20)
    proxy.heal()
    assert steps(run_id) == list(range(1, 21))
    assert runs.close_run(run_id, "FINISHED")
    assert not list(spool_directory().iterdir())


@pytest.mark.parametrize(
    ("fault", "says", "attempts"),
    [
        (Answer(401, body=b"log in"), "HTTP 401", 1),
        (Answer(403, body=b"not you"), "HTTP 403", 1),
        (Answer(404, body=PAGE), "a web page", 1),
        (Answer(200, body=PAGE), "a web page", 1),
        (Answer(500), "does not serve us", 2),
        (Answer(429), "does not serve us", 2),
    ],
    ids=["401", "403", "404 page", "200 page", "500", "429"],
)
def test_40_what_is_wrong_at_the_start_is_said_at_once(
    fault: Answer, says: str, attempts: int, proxy: FaultProxy, recipe: Recipe, manifest: Manifest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.address.replace("//", "//ann:canary@"))
    proxy.inject(fault, times=None)
    refused = fault.status in (401, 403)
    with pytest.raises(BadInput if refused else Away, match=says) as caught:
        runs.open_run(recipe, manifest)
    assert "canary" not in str(caught.value)
    assert len(proxy.requests) == attempts
    # A refusal is no server that is away: it is not spooled for, either.
    monkeypatch.setenv("SEQGEN_TRACKING_REQUIRED", "false")
    if refused:
        with pytest.raises(BadInput, match="MLFLOW_TRACKING_PASSWORD"):
            runs.check()
    else:
        runs.check()
    assert not spools()


@pytest.mark.parametrize("status", [401, 403])
def test_40_a_login_that_is_refused_in_the_middle_is_not_tried_again_and_loses_nothing(
    status: int, proxy: FaultProxy, recipe: Recipe, manifest: Manifest, capfd: pytest.CaptureFixture[str]
) -> None:
    run_id = runs.open_run(recipe, manifest)
    proxy.heal()
    proxy.inject(Answer(status, body=b"no"), where=lambda request: "/api/" in request.path, times=None)
    assert not log_steps(run_id, 1, 20)
    assert sum("/api/" in request.path for request in proxy.requests) == 1
    assert not runs.close_run(run_id, "FINISHED")
    assert "refuses" in capfd.readouterr().err
    proxy.heal()
    replay.replay()
    assert steps(run_id) == list(range(1, 21))
    assert run_of(run_id).info.status == "FINISHED"


def test_40_a_certificate_that_is_not_trusted_is_refused_until_it_is(
    server: MlflowServer, here: Path, recipe: Recipe, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = self_signed(here)
    with tls_before(server.port, certificate) as port:
        uri = f"https://ann:canary@127.0.0.1:{port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(Away, match="MLFLOW_TRACKING_SERVER_CERT_PATH") as caught:
            runs.open_run(recipe, manifest)
        assert "canary" not in str(caught.value)
        assert not reachable(uri)
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
        run_id = runs.open_run(recipe, manifest)
        assert log_steps(run_id, 1, 5)
        assert runs.close_run(run_id, "FINISHED")
        assert steps(run_id) == list(range(1, 6))


def test_40_the_password_is_nowhere(proxy: FaultProxy, files: tuple[Path, Path], here: Path) -> None:
    """Not in what a driver prints, whether all goes well or the server goes away, and not in what it leaves."""
    uri = proxy.address.replace("//", "//ann:canary@")
    good = Driver(files, uri)
    good.go()
    assert good.hear() == "logged"
    good.go()
    assert "canary" not in good.end()
    assert run_of(good.run_id).info.status == "FINISHED"
    bad = Driver(files, uri)
    proxy.down()
    bad.go()
    assert bad.hear() == "logged"
    bad.go()
    said = bad.end()
    assert "python -m pipelines.replay" in said
    assert "canary" not in said
    proxy.up()
    assert "canary" not in contents(here)
    replay.replay()
    assert run_of(bad.run_id).info.status == "FINISHED"
    assert steps(bad.run_id) == list(range(1, 51))


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll; the test's own time limit ends a wait in vain."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.02)


def self_signed(directory: Path) -> Path:
    """A certificate of 127.0.0.1 and its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = directory / "certificate.pem"
    path.write_bytes(certificate.public_bytes(pem) + secret)
    return path


@contextlib.contextmanager
def tls_before(upstream: int, certificate: Path) -> Iterator[int]:
    """TLS on the port given, before the server of 127.0.0.1 at `upstream`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve(client: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            context.wrap_socket(client, server_side=True) as safe,
            socket.create_connection(("127.0.0.1", upstream)) as server,
        ):
            back = threading.Thread(target=copy, args=(server, safe), daemon=True)
            back.start()
            copy(safe, server)
            back.join()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
