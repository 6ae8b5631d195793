"""An HTTP proxy that stands before a real server (S3, MLflow) and does to it what networks and clouds do.

    with FaultProxy(server.port) as proxy:                          # the client is given proxy.address
        proxy.inject(Answer(503, "SlowDown"), times=3)              # the next three requests
        proxy.inject(Reset(), where=lambda request: request.method == "PUT", times=None)    # until `heal`
        proxy.inject(Cut(after=100_000), where=lambda request: "partNumber" in request.path)
        proxy.inject(Slow(5.0), times=None)
        proxy.inject(CutAnswer(after=1000))
        proxy.inject(Answer(400, "ExpiredToken"), where=lambda request: "old-key" in request.signed_by, times=None)
        proxy.heal()                                                # nothing is wrong any more
        proxy.down(); proxy.up()                                    # an outage: connections refused and reset
        proxy.requests                                              # each one: method, path, signed_by, outcome

What a request meets is the first injected fault that has `times` left and whose `where` is true of it; all others are
handed on unchanged (also their Host, which S3 signs). `Answer` gives S3's XML; `body` gives any other, such as a
gateway's HTML page. The proxy lives in threads of the test; clients may be other processes.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.free_ports import free_ports

_CHUNK = 16 * 1024


@dataclass
class Request:
    """One request: `outcome` is the status it was answered with, the name of the fault, or "in progress"."""

    method: str
    path: str
    signed_by: str  # the Authorization header, which holds the access key's name
    outcome: int | str = "in progress"


@dataclass(frozen=True)
class Answer:
    """The server is not asked: `status` with S3's XML of `code`, each of `elements` an element of it, or `body`."""

    status: int
    code: str = "InternalError"
    elements: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True)
class Reset:
    """The connection is reset; the server is not asked."""


@dataclass(frozen=True)
class Slow:
    """The server is asked after so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Cut:
    """After so many bytes of the request's body both connections are reset."""

    after: int


@dataclass(frozen=True)
class CutAnswer:
    """After so many bytes of the answer's body the client's connection is reset."""

    after: int


Fault = Answer | Reset | Slow | Cut | CutAnswer
Where = Callable[[Request], bool]


@dataclass
class _Injected:
    fault: Fault
    where: Where
    times: int | None


class FaultProxy:
    """Before the server at 127.0.0.1:`upstream`; its own port stays the same through `down` and `up`.

    Where `renames`, it asks by that address, as most proxies do, instead of the Host that the client wrote.
    """

    def __init__(self, upstream: int, *, renames: bool = False) -> None:
        self.upstream, self.renames = upstream, renames
        self.requests: list[Request] = []
        self._injected: list[_Injected] = []
        self._lock = threading.Lock()
        self._server: _Server | None = None
        (self.port,) = free_ports(1)
        self.address = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> FaultProxy:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self) -> None:
        """Take connections."""
        self._server = _Server(("127.0.0.1", self.port), self)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections, and reset those that are open, whatever is on its way through them."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.reset_all()
            self._server = None

    def inject(self, fault: Fault, where: Where = lambda request: True, times: int | None = 1) -> None:
        """Let the next `times` requests of which `where` is true meet the fault; None: all, until `heal`."""
        with self._lock:
            self._injected.append(_Injected(fault, where, times))

    def heal(self) -> None:
        """Forget every fault, and the requests so far."""
        with self._lock:
            self._injected.clear()
            self.requests.clear()

    def meet(self, request: Request) -> Fault | None:
        """Take down a request; the fault that it meets."""
        with self._lock:
            self.requests.append(request)
            for injected in self._injected:
                if injected.times != 0 and injected.where(request):
                    injected.times = None if injected.times is None else injected.times - 1
                    return injected.fault
        return None


class _Cut(Exception):
    """The fault has come."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], proxy: FaultProxy) -> None:
        self.proxy = proxy
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def reset_all(self) -> None:
        for connection in list(self._open):
            reset(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients go away in the middle: that is what this is for


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def relay(self) -> None:
        request = Request(self.command, self.path, self.headers.get("Authorization", ""))
        fault = self.server.proxy.meet(request)
        try:
            if isinstance(fault, Reset):
                raise _Cut
            if isinstance(fault, Answer):
                for _ in self._body():
                    pass
                self._answer(fault)
                request.outcome = fault.status
                return
            if isinstance(fault, Slow):
                time.sleep(fault.seconds)
            request.outcome = self._hand_on(fault)
        except (_Cut, OSError, http.client.HTTPException) as error:
            request.outcome = type(fault).__name__ if fault else type(error).__name__
            reset(self.connection)
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = do_OPTIONS = relay

    def _hand_on(self, fault: Fault | None) -> int:
        """Ask the server and give its answer; the status."""
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.proxy.upstream, timeout=300)
        with contextlib.closing(upstream):
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() == "host" and self.server.proxy.renames:
                    upstream.putheader(name, f"127.0.0.1:{self.server.proxy.upstream}")
                elif name.lower() not in ("expect", "connection"):
                    upstream.putheader(name, value)
            upstream.endheaders()
            sent = 0
            for piece in self._body():
                if isinstance(fault, Cut) and sent + len(piece) > fault.after:
                    upstream.send(piece[: fault.after - sent])
                    reset(upstream.sock)
                    raise _Cut
                upstream.send(piece)
                sent += len(piece)
            answer = upstream.getresponse()
            self.send_response_only(answer.status, answer.reason)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding"):
                    self.send_header(name, value)
            length, bare = answer.getheader("Content-Length"), answer.status in (204, 304)
            if length is None and not bare and self.command != "HEAD":
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            given = 0
            while piece := answer.read(_CHUNK):
                if isinstance(fault, CutAnswer) and given + len(piece) > fault.after:
                    self.wfile.write(piece[: fault.after - given])
                    raise _Cut
                self.wfile.write(piece if length else b"%x\r\n%b\r\n" % (len(piece), piece))
                given += len(piece)
            if length is None and not bare and self.command != "HEAD":
                self.wfile.write(b"0\r\n\r\n")
            return answer.status

    def _body(self) -> Iterator[bytes]:
        """The request's body in pieces, framed as it came."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while True:
                line = self.rfile.readline()
                size = int(line.partition(b";")[0], 16)
                yield line + self.rfile.read(size) + self.rfile.readline()
                if size == 0:
                    return
        left = int(self.headers.get("Content-Length", 0))
        while left:
            piece = self.rfile.read(min(_CHUNK, left))
            if not piece:
                raise ConnectionResetError("the client went away")
            left -= len(piece)
            yield piece

    def _answer(self, fault: Answer) -> None:
        elements = {"Code": fault.code, "Message": fault.code, **fault.elements}
        body = fault.body
        if body is None:
            inner = "".join(f"<{name}>{value}</{name}>" for name, value in elements.items())
            body = f'<?xml version="1.0" encoding="UTF-8"?><Error>{inner}</Error>'.encode()
        self.send_response_only(fault.status)
        self.send_header("Date", self.date_time_string())
        self.send_header("Content-Type", "application/xml" if fault.body is None else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def reset(connection: socket.socket) -> None:
    """Close it with RST: what is not sent yet is thrown away."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RD)  # wakes whoever reads from it
    connection.close()
