"""`seqgen serve` as a process: what it refuses over a real connection, whom it follows, how it ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests

import seqgen
from pipelines import register
from tests.fault_proxy import FaultProxy
from tests.finished_run import finished_run, stored, tiny_recipe, work_in
from tests.serve_process import ServeProcess
from tests.served_models import binary_images, saved
from tests.serving.test_follower import CHAMPION, crown
from tests.verb_process import verb

pytestmark = pytest.mark.slow
X = binary_images(1)[0]
# Tens of thousands of passes: longer than a test needs to ask for something else.
LONG = {"x": X.tolist(), "missing": [[1] * X.shape[1]] * X.shape[0], "steps": 1000, "samples": 200}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path / "model", steps=30)


def test_a_request_under_way_is_answered_after_sigterm(tmp_path: Path, model: Path):
    with ServeProcess(tmp_path, model, "--max-seconds=600") as server, ThreadPoolExecutor(4) as clients:
        short = {**LONG, "steps": 100, "samples": 20}
        asked = [clients.submit(server.post, "/v1/impute", short) for _ in range(3)]
        while "seqgen_queue_length 3" not in server.get("/metrics").text:
            assert not any(each.done() for each in asked)
        server.process.send_signal(signal.SIGTERM)
        assert [each.result().status_code for each in asked] == [200, 200, 200]
        assert server.process.wait(60) == 0
        with pytest.raises(requests.ConnectionError):
            server.get("/healthz")
    assert "Traceback" not in server.log


def test_limits_hold_over_a_real_connection(tmp_path: Path, model: Path):
    options = ("--max-seconds=8", "--max-queue=1", "--max-body=3000", "--max-samples=200")
    with ServeProcess(tmp_path, model, *options) as server, ThreadPoolExecutor(1) as clients:
        slow = clients.submit(server.post, "/v1/impute", LONG)
        while "seqgen_queue_length 1" not in server.get("/metrics").text:
            assert not slow.done()
        full = server.post("/v1/samples", {"samples": 1})
        assert (full.status_code, full.headers["Retry-After"]) == (429, "1")
        assert slow.result().status_code == 504
        assert slow.result().json()["error"].startswith("not done in 8 s")
        assert server.post("/v1/samples", {"samples": 1}).status_code == 200  # the slow one was dropped
        assert server.post("/v1/samples", {"samples": 201}).status_code == 422
        large = requests.post(server.url + "/v1/nll", data=b" " * 20_000, timeout=60)
        assert large.status_code == 413
        assert large.json() == {"error": "body: more than 3000 bytes; send fewer images at a time"}
        chunked = requests.post(server.url + "/v1/nll", data=iter([b" " * 2000] * 3), timeout=60)
        assert chunked.status_code == 413
        assert requests.get(server.url, headers={"Host": "evil.example"}, timeout=60).status_code == 403
        place = urlsplit(server.url)
        with socket.create_connection((place.hostname, place.port), timeout=60) as half:
            half.sendall(b"POST /v1/nll HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
            response = http.client.HTTPResponse(half)
            response.begin()
            assert response.status == 408
        assert "Traceback" not in server.log


@pytest.mark.parametrize("renames", [False, True])
def test_behind_a_proxy_its_name_is_answered_and_no_other(tmp_path: Path, model: Path, renames: bool):
    with (
        ServeProcess(tmp_path, model, "--allowed-host=draw.example") as server,
        FaultProxy(urlsplit(server.url).port or 0, renames=renames) as proxy,
    ):

        def asked(host: str, origin: str) -> tuple[int, str]:
            headers = {"Host": host, "Origin": origin}
            answer = requests.post(
                f"{proxy.address}/v1/samples", json={"samples": 1}, headers=headers, timeout=60
            )
            return answer.status_code, answer.json().get("error", "")

        assert asked("draw.example", "https://draw.example") == (200, "")
        assert asked("draw.example", "https://draw.example:8443") == (200, "")
        status, why = asked("draw.example", "https://evil.example")
        assert status == 403
        assert why.startswith("Origin 'https://evil.example'")
        status, why = asked("evil.example", "https://evil.example")
        assert status == 403
        assert why.startswith("Origin " if renames else "Host ")


def test_the_bodies_of_more_than_may_wait_take_no_memory(tmp_path: Path, model: Path):
    """40 of 4 MB at once, all there but for the last byte: two are kept."""
    body = b" " * 3_999_000 + b'{"samples": 1}'
    head = f"POST /v1/samples HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with (
        ServeProcess(tmp_path, model, "--max-queue=2", "--max-seconds=120") as server,
        contextlib.ExitStack() as end,
    ):
        assert server.post("/v1/samples", {"samples": 1}).status_code == 200
        place, before = urlsplit(server.url), most_memory(server)
        clients = []
        for _ in range(40):
            client = end.enter_context(socket.create_connection((place.hostname, place.port), timeout=120))
            client.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body[:-1])
            clients.append(client)
        responses = []
        for client in clients:
            client.sendall(body[-1:])
            responses.append(http.client.HTTPResponse(client))
            responses[-1].begin()
        assert [response.status for response in responses] == [200] * 2 + [429] * 38
        assert responses[-1].getheader("Retry-After") == "1"
        assert json.loads(responses[-1].read()) == {"error": "2 requests wait already; ask again in a second"}
        assert most_memory(server) - before < 60_000_000
        assert server.post("/v1/samples", {"samples": 1}).status_code == 200


def most_memory(server: ServeProcess) -> int:
    """The most bytes of RAM that the server's process has had."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])


@contextlib.contextmanager
def asking(server: ServeProcess, question: object) -> Iterator[list[requests.Response]]:
    """Within it a client asks without a pause, and once more at its end; what it was answered."""
    answers, ended = [server.post("/v1/samples", question)], threading.Event()

    def ask() -> None:
        last = False
        while not last:
            last = ended.is_set()
            answers.append(server.post("/v1/samples", question))

    with ThreadPoolExecutor(1) as client:
        asked = client.submit(ask)
        try:
            yield answers
        finally:
            ended.set()
    asked.result()


def test_the_champion_is_followed_without_a_request_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    work_in(tmp_path, monkeypatch)
    recipe = tiny_recipe(tmp_path)
    for seed in (0, 1, 2):
        register.register_trained(finished_run(recipe, seed=seed))
    crown("1")
    question = {"samples": 2, "seed": 3, "format": "array"}
    expected = {n: seqgen.load(f"models:/tiny/{n}").sample(2, seed=3).numpy() for n in ("1", "2", "3")}
    with (
        ServeProcess(tmp_path, CHAMPION, "--follow-seconds=0.2") as server,
        asking(server, question) as answers,
    ):
        crown("2")
        server.wait_for("serving tiny/2")
        weights = stored(tmp_path, "3") / "model/weights.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:1000])
        crown("3")
        server.wait_for("tiny/2 is still served: version 3: ")
        assert server.get("/v1/model").json()["version"] == "2"
        weights.write_bytes(whole)
        server.wait_for("serving tiny/3")
    assert {answer.status_code for answer in answers} == {200}
    said = [answer.json()["model"] for answer in answers]
    assert list(dict.fromkeys(said)) == ["tiny/1", "tiny/2", "tiny/3"]
    for answer in answers:
        drawn = answer.json()
        np.testing.assert_allclose(drawn["images"], expected[drawn["model"][-1]], rtol=1e-5)


def test_bad_input_ends_with_2_and_a_line(tmp_path: Path, model: Path):
    done = verb(tmp_path, "serve", str(model), "--port=0", "--allowed-host=https://draw.example")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --allowed-host https://draw.example: a name alone")
    done = verb(tmp_path, "serve", "nowhere", "--port=0")
    assert done.returncode == 2
    assert "nowhere/model.json: no seqgen model here" in done.stderr
    for option, said in (
        ("--max-seconds=inf", "seconds=inf: "),
        ("--follow-seconds=inf", "follow_seconds=inf: "),
    ):
        done = verb(tmp_path, "serve", str(model), "--port=0", option)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {said}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = verb(tmp_path, "serve", str(model), f"--port={port}")
    assert done.returncode == 2
    assert done.stderr == f"error: --host 127.0.0.1 --port {port}: Address already in use; choose another\n"
