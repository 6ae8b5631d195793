"""What every store demands of a key, and of what it gives out."""

from __future__ import annotations

from pathlib import PurePosixPath

from pipelines.storage import Altered
from seqgen.core.errors import BadInput


def check_key(key: str) -> None:
    """Raises BadInput unless it is a relative path without steps back or empty ones."""
    parts = key.split("/")
    if PurePosixPath(key).is_absolute() or any(part in ("", ".", "..") for part in parts) or "\0" in key:
        raise BadInput(f"key {key!r}: a key is a relative path such as run/weights.safetensors")


def check_sha256(address: str, found: str, expected: str | None) -> None:
    """Raises Altered if what was found is not what is expected; None: nothing was put there by us."""
    if found != expected:
        put = "by another program" if expected is None else f"with sha256 {expected}"
        raise Altered(f"{address}: put {put}, now has sha256 {found}: altered, or replaced; do not use it")
