"""An ASGI application asked without a server between: the request's messages in, the answer's out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Message

JSON = {"content-type": "application/json"}


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> str:
        """What a refusal says; that it says nothing else."""
        assert set(self.json) == {"error"}
        return self.json["error"]


def ask(app: ASGIApp, path: str, question: Any = None, **headers: str) -> Answer:
    """GET `path`, or POST `question` to it, as JSON or as the bytes it is."""
    return asyncio.run(asking(app, path, question, **headers))


async def asking(app: ASGIApp, path: str, question: Any = None, **headers: str) -> Answer:
    """`ask` among others."""
    if question is None:
        return _answered(await exchange(app, "GET", path, (), headers))
    body = question if isinstance(question, bytes) else json.dumps(question).encode()
    said = {"content-length": str(len(body))}
    return _answered(await exchange(app, "POST", path, [body], {**JSON, **said, **headers}))


def _answered(answer: Answer | None) -> Answer:
    assert answer is not None
    return answer


async def exchange(
    app: ASGIApp,
    method: str,
    path: str,
    parts: Sequence[bytes],
    headers: Mapping[str, str],
    hangs_up: asyncio.Event | None = None,
) -> Answer | None:
    """One request, its body in `parts`, after which nothing comes but a client that hangs up; None: no answer."""
    place, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": place,
        "raw_path": place.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (name.replace("_", "-").encode(), value.encode())
            for name, value in {"host": "127.0.0.1:8080", **headers}.items()
        ],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8080),
    }
    waiting = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if method == "GET" or "content-length" in headers or "ends" in headers:
        waiting.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Message] = []

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        await (hangs_up or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start = next((message for message in sent if message["type"] == "http.response.start"), None)
    if start is None:
        return None
    content = b"".join(
        message.get("body", b"") for message in sent if message["type"] == "http.response.body"
    )
    return Answer(start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, content)
