"""What S3's errors mean to a person, and what is none of S3's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data_prep import s3
from pipelines.storage import Store, open_store
from seqgen.core.errors import BadInput, OperationalError


class Server(ThreadingHTTPServer):
    """Gives every GET and PUT the `answer`, with this status and these headers."""

    status, answer, headers, asked = 200, b"", {}, 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_response(self.server.status)
        for name, value in (self.server.headers | {"Content-Length": str(len(self.server.answer))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.answer)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        yield server
        server.shutdown()


@pytest.fixture
def store(server: Server) -> Store:
    return open_store("s3://runs/prefix")


def test_an_answer_that_was_altered_on_its_way_is_asked_for_again_and_no_bad_input(
    server: Server, store: Store
):
    server.answer, server.headers = b"altered", {"x-amz-checksum-crc32": "AAAAAA==", "x-amz-meta-sha256": "0"}
    with pytest.raises(
        OperationalError, match=r"s3://runs/prefix/a: altered on its way at http://127.*checksum"
    ):
        store.read("a")
    assert server.asked == 5


def test_a_page_that_is_no_answer_of_s3_is_no_bad_input(server: Server, store: Store):
    server.answer = b"<html>Log in<br>"
    with pytest.raises(OperationalError, match=r"was answered 500 at http://127.* try again later"):
        store.list()


def test_what_a_server_has_not_implemented_never_passes(
    server: Server, store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    server.status = 501
    server.answer = b"<Error><Code>NotImplemented</Code><Message>If-None-Match: no</Message></Error>"
    with pytest.raises(
        BadInput, match=r"PutObject was answered NotImplemented at http.*; use another storage"
    ):
        store.create("a", b"1")
    assert server.asked == 1


def test_an_error_of_our_own_is_not_called_bad_input(server: Server):
    def call(client: object) -> None:
        raise ValueError("ours")

    with pytest.raises(ValueError, match=r"^ours$"):
        s3.ask("s3://runs/a", call)


def test_an_endpoint_that_is_no_address_is_bad_input(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nowhere")
    with pytest.raises(BadInput, match=r"s3://runs/prefix/: Invalid endpoint: nowhere; correct"):
        open_store("s3://runs/prefix").list()
