"""uvicorn with the application: opened on a socket, stopped in order."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import uvicorn
from starlette.types import ASGIApp

from seqgen.core.errors import BadInput


class Server:
    """Listens from the beginning, answers once it runs. Raises BadInput if the port is taken or the host is none."""

    def __init__(self, host: str, port: int) -> None:
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            self._socket = socket.create_server((host, port), family=family)
            # Of every connection, too. asyncio sets it only where a socket's protocol is said, which this one's is not;
            # without, an answer's body waits 40 ms for the receipt of its headers.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            why = (error.strerror or "").partition(" (")[0]  # what Python adds is what stands before it
            raise BadInput(f"--host {host} --port {port}: {why}; choose another") from None
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self._socket.getsockname()[1]}"
        self._server: _Uvicorn | None = None
        self._stopped = False

    def run(self, app: ASGIApp, patience: float) -> None:
        """Answer until `stop`; then finish what is under way, for `patience` seconds at most."""
        config = uvicorn.Config(
            app,
            loop="asyncio",  # these two whatever else is installed
            http="h11",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=round(patience),
        )
        self._server = _Uvicorn(config)
        self._server.should_exit = self._stopped
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End `run`; from a signal or another thread."""
        self._stopped = True
        if self._server is not None:
            self._server.should_exit = True


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None: who runs the server has signals in hand."""
        yield


def host_name(name: str) -> str:
    """A host's name as requests have it, without a port. Raises BadInput if it is none."""
    try:
        alone = urlsplit(f"//{name}").hostname == name.lower() != ""
    except ValueError:
        alone = False
    if not alone:
        raise BadInput(
            f"--allowed-host {name}: a name alone, as draw.example.org; without scheme, port and path"
        )
    return name.lower()


def loopback_names(host: str) -> set[str] | None:
    """The names by which this machine alone reaches a server on `host`; None if others reach it."""
    names = {"localhost", "127.0.0.1", "::1"}
    if host in names:
        return names
    try:
        return names | {host} if ipaddress.ip_address(host).is_loopback else None
    except ValueError:
        return None
