"""Requests that are refused: the status, and one sentence that names the field, the value and the remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from seqgen.core.errors import SeqgenError

UNREADABLE = "nested too deeply, a number of thousands of digits, or not UTF-8"
STATUSES = MappingProxyType(
    {
        400: f"A body that cannot be read: {UNREADABLE}",
        403: "A Host that is not this server's, or an Origin that is not",
        404: "A path that there is not",
        405: "A method that the path has not",
        408: "A body that does not come within the seconds of a request",
        413: "A body over the limit",
        422: "A wrong image, number or field, or more than one request may ask",
        429: "As many requests as may wait do; Retry-After",
        500: "The server or the model failed; the log says how",
        503: "No model is loaded yet, or the server is stopping; Retry-After",
        504: "Not done in the seconds of a request",
    }
)
_SHOWN = 60  # characters of a wrong value


class Refusal(SeqgenError):
    """A request that is not answered as asked, with the HTTP `status` that says why."""

    status = 500
    headers: ClassVar[Mapping[str, str]] = MappingProxyType({})


class Unavailable(Refusal):
    """There is no model yet, or the server is stopping."""

    status = 503
    headers: ClassVar[Mapping[str, str]] = MappingProxyType({"Retry-After": "5"})


class TooSlow(Refusal):
    """The work was not done in the seconds that one request may take."""

    status = 504


def sentence(errors: Sequence[Any]) -> str:
    """The first of pydantic's `errors` on a request in one sentence."""
    error = errors[0]
    field = ".".join(str(part) for part in error["loc"] if part not in ("body", "query")) or "body"
    what = error["msg"][:1].lower() + error["msg"][1:]
    if error["type"] == "missing":
        return f"{field}: missing; give it" if field != "body" else "body: empty; send JSON"
    if error["type"] == "json_invalid":
        return f"body: not JSON ({error.get('ctx', {}).get('error', what)}); send JSON"
    if error["type"] == "extra_forbidden":
        return f"{field}: no such field; leave it out (GET /docs lists those there are)"
    if field == "body":
        return f"body: {what}; send a JSON object as application/json"
    given = repr(error.get("input"))
    return f"{field}={given if len(given) <= _SHOWN else given[:_SHOWN] + '...'}: {what}"
