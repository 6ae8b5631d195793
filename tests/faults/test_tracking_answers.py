"""Tracking, cases 39 and 40: a server that is slow, wrong or refuses."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import replay
from pipelines.tracking import runs
from pipelines.tracking.server import Away, reachable
from pipelines.tracking.spool import RunSpool, spool_directory, spools
from seqgen.core.errors import BadInput
from seqgen.data.manifest import Manifest
from seqgen.settings import Recipe
from tests.fault_proxy import Answer, CutAnswer, FaultProxy, Reset, Slow
from tests.mlflow_server import MlflowServer
from tests.tracking_runs import Driver, log_steps, run_of, steps, wait_until

pytestmark = pytest.mark.slow


PAGE = b"<html><body>502 Bad Gateway</body></html>"


LOG_BATCH = "runs/log-batch"


def contents(directory: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in directory.rglob("*") if path.is_file())


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
    server: MlflowServer, project: Path, recipe: Recipe, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = self_signed(project)
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


def test_40_the_password_is_nowhere(proxy: FaultProxy, files: tuple[Path, Path], project: Path) -> None:
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
    assert "seqgen replay" in said
    assert "canary" not in said
    proxy.up()
    assert "canary" not in contents(project)
    replay.replay()
    assert run_of(bad.run_id).info.status == "FINISHED"
    assert steps(bad.run_id) == list(range(1, 51))


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
