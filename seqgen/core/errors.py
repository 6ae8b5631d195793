"""The errors a user meets, and a stop, and the exit code each one stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_CREDENTIALS = re.compile(r"(://)[^/\s]+@")


class SeqgenError(Exception):
    """Base of every error shown without a traceback; `exit_code` is the process's."""

    exit_code = 1


class OperationalError(SeqgenError):
    """Something outside the input failed: a server, a disk, a worker, a damaged shard."""

    exit_code = 1


class BadInput(SeqgenError):
    """The input or a setting is wrong; the message names the key or file, the value and the remedy."""

    exit_code = 2


class NumericalError(SeqgenError):
    """The mathematics left the finite numbers."""

    exit_code = 3


class StoppedEarly(BaseException):
    """The run was asked to stop; what it had is saved and it can be resumed.

    No Exception, as KeyboardInterrupt is none: a signal raises it anywhere, and whoever handles errors there, we or a
    library, must not take a stop for one.
    """

    exit_code = 4


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys in which two flat mappings differ, each with both values (None where it is absent)."""
    return [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def redact(text: str) -> str:
    """`text` with the credentials of its URIs (user, token, password) replaced by ***."""
    return _CREDENTIALS.sub(r"\1***@", text)


def one_line(error: BaseException) -> str:
    """Another library's error in at most 200 characters of one line, without credentials."""
    return redact(" ".join(str(error).split()))[:200]
