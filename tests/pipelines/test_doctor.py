"""`seqgen doctor`: each check on what is really so: limits, taken ports, refused rights, wrong clocks, open doors."""

from __future__ import annotations

import base64
import inspect
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from pipelines.cli import background
from pipelines.cli.command import run
from pipelines.cli.verbs import VERBS
from pipelines.doctor import doctor, installed, machine, network, stores
from pipelines.doctor.findings import Finding
from pipelines.services.place import Place
from pipelines.storage.folder import Folder
from pipelines.tracking.spool import Point, RunSpool
from tests.fault_proxy import Answer, FaultProxy
from tests.free_ports import free_ports
from tests.s3_server import READER, S3Server
from tests.sets import write_digits

LOCATIONS = (
    "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "SEQGEN_STATE",
    "SEQGEN_STORAGE", "SEQGEN_SHARDS", "SEQGEN_ARTIFACTS", "MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION",
)  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and home; nothing is named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in LOCATIONS:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        run(doctor, list(arguments))
    return int(ended.value.code or 0)


def only(findings: Iterator[Finding]) -> Finding:
    (found,) = findings
    return found


def test_all_well_ends_with_0_and_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEQGEN_KERNELS", "off")
    assert call("kernels", "clock") == 0
    assert capsys.readouterr().out.splitlines() == [
        "ok       kernels   off, as SEQGEN_KERNELS says; torch computes everything",
        "ok       clock     nothing to compare it with: storage and tracking are files here",
    ]


def test_a_failure_ends_with_1_and_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert call("ray", "--json") == 1
    out, err = capsys.readouterr()
    first, *_ = json.loads(out)
    assert (first["check"], first["verdict"], first["remedy"]) == ("ray", "failed", "RAY_AUTH_MODE=token")
    assert "checks failed" in err


def test_a_check_that_there_is_not_is_named(capsys: pytest.CaptureFixture[str]):
    assert call("disks") == 2
    assert "disks: no such check; there are versions, " in capsys.readouterr().err


def test_a_table_has_every_finding(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("SEQGEN_KERNELS", "off")
    assert call("kernels") == 0
    assert "SEQGEN_KERNELS" in capsys.readouterr().out


def test_versions_are_held_against_what_is_asked_for(here: Path, monkeypatch: pytest.MonkeyPatch):
    assert [finding.verdict for finding in installed.versions()] in (["ok"], ["warning"])
    monkeypatch.setattr(installed, "ROOT", here)
    (here / "pyproject.toml").write_text(
        '[project]\nrequires-python = ">=3.11"\ndependencies = ["psutil>=99", "no-such-thing>=1", "requests>=2"]\n'
    )
    (here / "constraints.txt").write_text("requests==2.0.1\n")
    found = list(installed.versions())
    assert [finding.verdict for finding in found] == ["failed", "failed", "warning"]
    assert "psutil" in found[0].text
    assert ">=99" in found[0].text
    assert "no-such-thing is not installed" in found[1].text
    assert "(tested: 2.0.1)" in found[2].text
    assert all("uv pip install" in finding.remedy for finding in found)


def test_open_files_are_limited(monkeypatch: pytest.MonkeyPatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    verdicts = {}
    try:
        for limit in (256, 1024, min(8192, hard)):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            verdicts[limit] = next(machine.limits()).verdict
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (verdicts[256], verdicts[1024], verdicts.get(8192, "ok")) == ("failed", "warning", "ok")


def test_room_on_a_disk(here: Path, monkeypatch: pytest.MonkeyPatch):
    (found,) = {finding.verdict for finding in machine.disk() if str(here) in finding.text} or {"ok"}
    assert found in ("ok", "warning", "failed")
    for name in ("_LITTLE", "_LEAST"):  # as if that were little
        monkeypatch.setattr(machine, name, 2**60)
        finding = machine.room(here, "checkpoints")
        assert finding.verdict == {"_LITTLE": "warning", "_LEAST": "failed"}[name]
        assert "SEQGEN_STORAGE" in finding.remedy


def test_a_taken_port_is_named_with_its_owner(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(network, "_PORTS", {port: ("a test", "--port of test")})
        finding = only(network.ports())
        assert finding.verdict == "warning"
        assert f"{port} (a test) is taken by {psutil.Process().name()} (pid {os.getpid()}" in finding.text
        assert finding.remedy.endswith("choose another: --port of test")
        place = Place()
        place.make()
        place.write_state({"mlflow": {**background.identity(os.getpid()), "port": port}})
        finding = only(network.ports())
        assert (finding.verdict, finding.text) == ("ok", f"{port} (a test) is this directory's mlflow")
    assert only(network.ports()).text == f"{port} (a test) is free"


def test_the_ports_of_every_verb_are_looked_at():
    defaults = {
        (name, option): parameter.default
        for name, verb in VERBS.items()
        for option, parameter in inspect.signature(verb.command()).parameters.items()
        if option.endswith("port")
    }
    assert len(defaults) == 4
    for (verb, option), port in defaults.items():
        remedy = network._PORTS[port][1]
        assert remedy.startswith(f"--{option.replace('_', '-')} of seqgen {verb}")


def test_a_dead_ray_address_fails_and_a_token_that_others_can_read_is_a_warning(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    (port,) = free_ports(1)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    (here / ".ray").mkdir()
    token = here / ".ray/auth_token"
    token.write_text("t")
    token.chmod(0o644)
    found = list(network.ray())
    assert "nothing answers there" in next(finding.text for finding in found if finding.verdict == "failed")
    assert found[-1] == Finding(
        "warning", f"{token} can be read by other users of this machine", f"chmod 600 {token}"
    )
    token.chmod(0o600)
    assert "can be read" not in list(network.ray())[-1].text


def test_a_folder_s_rights_are_tried(here: Path, monkeypatch: pytest.MonkeyPatch):
    storage = stores.storage(False, timedelta(hours=1))
    assert next(storage).text == f"{here}/.seqgen/ray: write, read, list, delete"
    monkeypatch.setenv("SEQGEN_STORAGE", str(here / "shared"))
    storage = stores.storage(False, timedelta(hours=1))
    assert next(storage).text == f"{here}/shared: write, create, read, list, delete"
    with monkeypatch.context() as overwriting:
        overwriting.setattr(Folder, "create", lambda store, key, content: bool(store.write(key, content)))
        found = [finding.text for finding in stores.storage(False, timedelta(hours=1))]
    assert f"create: {here}/shared: overwrites what shall only be created" in found[0]
    (here / "file").write_text("")
    monkeypatch.setenv("SEQGEN_STORAGE", str(here / "file"))
    found = list(stores.storage(False, timedelta(hours=1)))
    assert found[0].verdict == "failed"
    assert f"write: {here}/file" in found[0].text


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server of HTTP whose every answer `answer` gives; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("behind", "verdict"), [(0, "ok"), (100, "warning"), (600, "failed"), (-600, "failed"), (None, "warning")]
)
def test_a_clock_is_compared_with_the_server_s(
    behind: int | None, verdict: str, monkeypatch: pytest.MonkeyPatch
):
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response_only(200)
        if behind is not None:
            theirs = datetime.now(UTC) + timedelta(seconds=behind)
            request.send_header("Date", format_datetime(theirs, usegmt=True))
        request.end_headers()

    with answering(answer) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        finding = only(network.clock())
    assert finding.verdict == verdict
    if behind:
        assert ("behind" if behind > 0 else "ahead of") in finding.text


def test_the_login_that_everybody_knows_is_tried(monkeypatch: pytest.MonkeyPatch):
    known = "Basic " + base64.b64encode(b"admin:password1234").decode()

    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.path == "/version":
            request.send_response(200)
            request.end_headers()
            request.wfile.write(b"3.9.0")
            return
        request.send_response(200 if request.headers.get("Authorization") == known else 401)
        request.end_headers()

    with answering(answer) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        found = list(stores.tracking())
    assert [finding.verdict for finding in found] == ["failed", "failed", "failed", "ok"]
    assert "the server is MLflow 3.9.0" in found[1].text
    assert "takes the login admin" in found[2].text


HOLD = """
import sys, time
from pathlib import Path
from pipelines.tracking.spool import RunSpool
with RunSpool(Path(sys.argv[1])).hold():
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_database_is_not_made_by_looking_at_it(here: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("waits", "is-worked-on"):
        RunSpool.of(name).path.mkdir(parents=True)
        RunSpool.of(name).metrics.append([Point("bound", 1.0, 0, 1)])
    worked_on = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(RunSpool.of("is-worked-on").path)], stdout=subprocess.PIPE
    )
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    try:
        assert worked_on.stdout
        worked_on.stdout.readline()
        found = list(stores.tracking())
    finally:
        worked_on.kill()
        worked_on.wait()
    assert [finding.verdict for finding in found] == ["ok", "warning", "warning"]
    assert found[-1].text.startswith("1 runs wait to be sent in ")
    assert found[-1].remedy == "seqgen replay"
    assert not (here / "mlflow.db").exists()


def test_kernels_that_are_not_built_are_a_warning(here: Path, monkeypatch: pytest.MonkeyPatch):
    from seqgen import native

    monkeypatch.setenv("XDG_CACHE_HOME", str(here))
    native.forget()
    try:
        finding = only(machine.kernels())
    finally:
        monkeypatch.undo()
        native.forget()
    assert (finding.verdict, finding.remedy) == ("warning", "python -m seqgen.native")


def test_processes_add_over_gloo_and_an_interface_that_is_not_there_fails(monkeypatch: pytest.MonkeyPatch):
    assert machine.all_reduce("gloo", 2) == Finding("ok", "gloo: a sum over 2 processes is right")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "none0")
    finding = machine.all_reduce("gloo", 2)
    assert finding.verdict == "failed"
    assert "GLOO_SOCKET_IFNAME=lo" in finding.remedy


def test_published_shards_are_read(here: Path, monkeypatch: pytest.MonkeyPatch):
    assert only(stores.shards()).verdict == "ok"
    root = here / "published"
    monkeypatch.setenv("SEQGEN_SHARDS", str(root))
    nothing = only(stores.shards())
    assert (nothing.verdict, nothing.remedy) == ("warning", "seqgen publish --recipe <name>")
    write_digits(root / "digits")
    found = only(stores.shards())
    assert found.verdict == "ok"
    assert f"{root}/digits: its manifest and " in found.text
    for shard in (root / "digits").glob("*.tar"):
        shard.write_bytes(b"another")
    assert "altered, or replaced" in only(stores.shards()).text
    (root / "digits/manifest.json").write_text("{")
    assert only(stores.shards()).verdict == "failed"
    monkeypatch.setenv("SEQGEN_SHARDS", "relative")
    assert call("shards") == 1


@pytest.mark.slow
def test_the_probe_of_an_upload_in_parts_is_aborted_if_a_part_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with S3Server(tmp_path / "s3") as server, FaultProxy(server.port) as proxy:
        server.client().create_bucket(Bucket="runs")
        monkeypatch.setenv("SEQGEN_STORAGE", "s3://runs/prefix")
        for name, value in server.environment(endpoint=proxy.address).items():
            monkeypatch.setenv(name, value)
        proxy.inject(Answer(403, "AccessDenied"), lambda request: "partNumber" in request.path, times=None)
        assert call("storage", "--older-than", "0") == 1
        out = capsys.readouterr().out
        assert "multipart: s3://runs/prefix/" in out
        assert "UploadPart was answered AccessDenied" in out
        assert "no unfinished uploads, older than 0 minutes" in out
        assert not server.client().list_multipart_uploads(Bucket="runs").get("Uploads")


@pytest.mark.slow
def test_s3_rights_are_tried_one_by_one_and_leftover_uploads_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with S3Server(tmp_path / "s3") as server:
        client = server.client()
        client.create_bucket(Bucket="runs")
        monkeypatch.setenv("SEQGEN_STORAGE", "s3://runs/prefix")
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        assert call("storage", "clock") == 0
        out = capsys.readouterr().out
        assert "s3://runs/prefix: write, create, read, list, multipart, delete" in out
        assert "no unfinished uploads" in out
        assert "the storage's clock" in out

        # What a process leaves that was killed while it uploaded: invisible, paid for, until --fix.
        begun = client.create_multipart_upload(Bucket="runs", Key="prefix/run/weights")
        client.upload_part(
            Bucket="runs", Key="prefix/run/weights", UploadId=begun["UploadId"], PartNumber=1, Body=b"x"
        )
        assert call("storage", "--fix") == 0  # an hour is not over: it may be under way
        assert "no unfinished uploads, older than 60 minutes" in capsys.readouterr().out
        assert call("storage", "--older-than", "0") == 0
        assert "1 unfinished uploads, older than 0 minutes (run/weights)" in capsys.readouterr().out
        assert call("storage", "--fix", "--older-than", "0") == 0
        assert "removed 1 unfinished uploads" in capsys.readouterr().out
        assert not client.list_multipart_uploads(Bucket="runs").get("Uploads")
        assert not client.list_objects_v2(Bucket="runs").get("Contents")

        # A key that may only read.
        for name, value in server.environment(READER).items():
            monkeypatch.setenv(name, value)
        assert call("storage") == 1
        out = capsys.readouterr().out
        assert "write: s3://runs/prefix/seqgen-probe-" in out
        assert "infra/s3-policy-training.json" in out


@pytest.mark.slow
def test_an_open_dashboard_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    port, dashboard, agent = free_ports(3)
    ray = Path(sys.executable).with_name("ray")
    log = (tmp_path / "ray.log").open("wb")
    head = subprocess.Popen(
        [
            *(str(ray), "start", "--head", "--block", "--disable-usage-stats", f"--port={port}", "--num-cpus=1"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
            f"--dashboard-agent-listen-port={agent}",
        ],
        env={**os.environ, "RAY_AUTH_MODE": "disabled"}, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{dashboard}"
    try:
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", address)
        deadline = time.monotonic() + 300
        while (found := list(network.ray()))[0].text.startswith(f"{address} does not answer"):
            assert time.monotonic() < deadline, (tmp_path / "ray.log").read_text()
            time.sleep(2)
        assert found[0].verdict == "failed"
        assert f"{address} is open: it takes jobs without a token" in found[0].text
    finally:
        family = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
        head.terminate()
        for left in psutil.wait_procs(family, timeout=60)[1]:
            left.kill()
        log.close()
