"""What a check found: a verdict, in words, and what to do about it."""

from __future__ import annotations

from typing import Literal, NamedTuple

Verdict = Literal["ok", "warning", "failed"]


class Finding(NamedTuple):
    """`remedy` is what to do, empty where all is well."""

    verdict: Verdict
    text: str
    remedy: str = ""


def ok(text: str) -> Finding:
    """All is well."""
    return Finding("ok", text)


def warning(text: str, remedy: str) -> Finding:
    """It works, and should be otherwise."""
    return Finding("warning", text, remedy)


def failed(text: str, remedy: str) -> Finding:
    """What needs it will not work, or is open to others."""
    return Finding("failed", text, remedy)
