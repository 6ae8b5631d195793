"""Files by key in a folder or a bucket, under one interface: each is there whole or not at all."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from seqgen.core.errors import BadInput, OperationalError


class Missing(OperationalError):
    """There is nothing of this key."""


class Altered(OperationalError):
    """What lies there is not what was put: its sha256 is another."""


class Store(Protocol):
    """Files below one address, `root`, by keys such as "run/step-120/weights.safetensors".

    A file appears whole or not at all, and takes the place of one of the same key. What cannot be had is an
    OperationalError, tried again before where it may pass by itself; a wrong address, a missing right or a key
    that is none is BadInput, at once. All may be called from several threads.
    """

    root: str

    def put_file(self, local: Path, key: str) -> str:
        """Put a file; its sha256, for `get_file` to know it by."""
        ...

    def get_file(self, key: str, local: Path, sha256: str | None = None) -> None:
        """Fetch a file, and check it, before it gets the name `local`.

        It must have the given sha256; without one, in a bucket, the one it was put with. Raises Missing or Altered.
        """
        ...

    def write(self, key: str, content: bytes) -> str:
        """Put a few bytes; their sha256."""
        ...

    def read(self, key: str, sha256: str | None = None) -> bytes | None:
        """What was written, checked as by `get_file`; None if there is nothing of this key. Raises Altered."""
        ...

    def list(self, prefix: str = "") -> list[str]:
        """The keys that begin with `prefix`, in order."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files; what is not there is no error."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is a file of this key."""
        ...


def open_store(root: str) -> Store:
    """The store at an absolute path or s3://bucket/prefix. Nothing is asked of it yet.

    Raises BadInput for another kind of address.
    """
    if root.startswith("s3://"):
        from pipelines.storage.bucket import Bucket

        return Bucket(root)
    if "://" in root or not Path(root).is_absolute():
        raise BadInput(f"storage {root}: give an absolute path or s3://<bucket>/<prefix>")
    from pipelines.storage.folder import Folder

    return Folder(root)


def preflight(root: str) -> None:
    """Put, get, list and delete a probe: what a training does there hours later, before anything is started.

    Raises BadInput if an address, a key or a right is wrong, OperationalError if the storage does not serve us.
    """
    store, probe, content = open_store(root), f"seqgen-probe-{uuid.uuid4().hex}", b"seqgen"
    sha256 = store.write(probe, content)
    try:
        if store.read(probe, sha256) is None or store.list(probe) != [probe]:
            raise OperationalError(f"{root}: what was just written is not there; use another storage")
    finally:
        store.delete([probe])
