"""What stands before the application: whom it answers, how much it reads, what every answer says, what is counted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Collection
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seqgen.serving.http.limits import Limits
from seqgen.serving.http.metrics import Metrics

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_DISCARDED = 8  # times the limit
_HUNG_UP = 499  # how nginx counts a request whose client did not wait for the answer


class Guard:
    """An ASGI application around `app`.

    A Host that is not among `hosts` (names without a port; None: any) is refused, so that no foreign name can be
    made to lead here (DNS rebinding), and an Origin that is not the Host's, so that no foreign page can make a
    browser ask. `allowed` are names, without a port, by which a proxy makes the server known: they are a Host and an
    Origin like its own. Of a body no more than the limit is kept, in the seconds that a request may take; of so many
    requests as may wait, and of those beyond nothing.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        metrics: Metrics,
        hosts: Collection[str] | None,
        allowed: Collection[str],
    ) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._hosts = None if hosts is None else {*hosts, *allowed}
        self._allowed = set(allowed)
        self._waiting: set[object] = set()  # a token of each request with a body whose answer has not begun

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, token = time.monotonic(), _HUNG_UP, object()

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                self._waiting.discard(token)
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._guarded(scope, receive, guarded, token)
        finally:
            self._waiting.discard(token)
            path = getattr(scope.get("route"), "path", None) or "other"
            self._metrics.requested(path, status, time.monotonic() - began)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send, token: object) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts is not None and _split(f"//{host}").hostname not in self._hosts:
            await _refuse(
                send,
                403,
                f"Host {host!r}: not this server's name; ask it as 127.0.0.1 or localhost, or start it with "
                "--allowed-host for a proxy's name",
            )
            return
        origin = headers.get("origin")
        if origin is not None and not self._is_own(_split(origin), host):
            await _refuse(
                send,
                403,
                f"Origin {origin!r}: pages of other servers are not answered; open this one's, or start it with "
                "--allowed-host for a proxy's name",
            )
            return
        full = False
        if _has_body(headers):
            full = len(self._waiting) >= self._limits.queue
            if not full:
                self._waiting.add(token)
        try:
            async with asyncio.timeout(self._limits.seconds):
                body = await self._body(headers, receive, 0 if full else self._limits.body_bytes)
        except _HungUp:
            return
        except TimeoutError:
            await _refuse(send, 408, f"body: not there in {self._limits.seconds:g} s; send it at once")
            return
        if full:
            why = f"{self._limits.queue} requests wait already; ask again in a second"
            await _refuse(send, 429, why, (b"retry-after", b"1"))
            return
        if body is None:
            most = self._limits.body_bytes
            await _refuse(send, 413, f"body: more than {most} bytes; send fewer images at a time")
            return
        await self._answer(scope, body, receive, send)

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Let the application answer; whoever hangs up before, nothing is worked out for."""
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        gone = asyncio.ensure_future(receive())  # there is nothing else to come

        async def read() -> Message:
            return waiting.pop() if waiting else await asyncio.shield(gone)

        answered = asyncio.ensure_future(self._app(scope, read, send))
        try:
            await asyncio.wait((answered, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                answered.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await answered
        finally:
            answered.cancel()
            gone.cancel()

    def _is_own(self, origin: SplitResult, host: str) -> bool:
        """Whether it is the origin of the server's own page."""
        return origin.netloc == host or origin.hostname in self._allowed

    async def _body(self, headers: Headers, receive: Receive, limit: int) -> bytes | None:
        """All of it; None if it is over `limit`, in bytes. Raises _HungUp if the client did.

        What is over is read and thrown away, to `_DISCARDED` times the limit of a body: a client reads no answer while
        it sends.
        """
        most = _DISCARDED * self._limits.body_bytes
        said = headers.get("content-length", "0")
        if not said.isdecimal() or int(said) > most:
            return None
        body, length, more = bytearray(), 0, True
        while more and length <= most:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _HungUp
            part = message.get("body", b"")
            length += len(part)
            if length <= limit:
                body += part
            more = message.get("more_body", False)
        return bytes(body) if length <= limit else None


class _HungUp(Exception):
    """The client is gone: nobody is to be answered."""


def _split(url: str) -> SplitResult:
    """Its parts, all of them empty if it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


async def _refuse(send: Send, status: int, why: str, *more: tuple[bytes, bytes]) -> None:
    """Answer and close the connection: what is left of the request is not read."""
    content = json.dumps({"error": why}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"connection", b"close"),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
