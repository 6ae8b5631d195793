"""Files by key in a folder or a bucket, under one interface: each is there whole or not at all."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from seqgen.core.errors import BadInput, OperationalError


class Missing(OperationalError):
    """There is nothing of this key."""


class Altered(OperationalError):
    """What lies there is not what was put: its sha256 is another."""


class Leftover(NamedTuple):
    """What a killed process left of a file that it was putting: it takes room, and is no file of the store's."""

    key: str
    number: str
    begun: datetime


class Store(ABC):
    """Files below one address, `root`, by keys such as "run/step-120/weights.safetensors".

    A file appears whole or not at all, and takes the place of one of the same key. What cannot be had is an
    OperationalError, tried again before where it may pass by itself; a wrong address, a missing right or a key
    that is none is BadInput, at once. All may be called from several threads.
    """

    root: str

    @abstractmethod
    def put_file(self, local: Path, key: str) -> str:
        """Put a file; its sha256, for `get_file` to know it by."""

    @abstractmethod
    def get_file(self, key: str, local: Path, sha256: str | None = None) -> None:
        """Fetch a file, and check it, before it gets the name `local`.

        It must have the given sha256; without one, in a bucket, the one it was put with. Raises Missing or Altered.
        """

    @abstractmethod
    def write(self, key: str, content: bytes) -> str:
        """Put a few bytes; their sha256."""

    @abstractmethod
    def create(self, key: str, content: bytes) -> bool:
        """Put a few bytes unless there is something of this key; of several who try at once one succeeds.

        Whether we did. A bucket's server must know `If-None-Match` (S3, SeaweedFS, MinIO and Ceph do).
        """

    @abstractmethod
    def read(self, key: str, sha256: str | None = None, anyones: bool = False) -> bytes | None:
        """What was written, checked as by `get_file`; None if there is nothing of this key. Raises Altered.

        `anyones`: also what was not put by us.
        """

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Remove files; what is not there is no error."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether there is a file of this key."""

    @abstractmethod
    def sha256(self, key: str) -> str | None:
        """That of the file, told without fetching it; None if there is none of this key, or it was not put by us."""

    @abstractmethod
    def leftovers(self, older_than: timedelta) -> Sequence[Leftover]:
        """What was begun longer ago and never finished. Younger ones may be under way, in another process."""

    @abstractmethod
    def remove(self, leftover: Leftover) -> None:
        """Free its room; one that is gone is no error."""

    @abstractmethod
    def list(self, prefix: str = "") -> list[str]:
        """The keys that begin with `prefix`, in order."""

    def preflight(self, creates: bool) -> None:
        """Put, get, list and delete a probe: what a training does here for hours, before anything is started.

        `creates`: it holds a lease, too.
        Raises BadInput if an address, a key or a right is wrong, OperationalError if the storage does not serve us.
        """
        probe = f"seqgen-probe-{uuid.uuid4().hex}"
        sha256 = self.write(probe, b"seqgen")
        try:
            if self.read(probe, sha256) is None or self.list(probe) != [probe]:
                raise OperationalError(
                    f"{self.root}: what was just written is not there; use another storage"
                )
            if creates:
                self.check_create(probe)
        finally:
            self.delete([probe])

    def check_create(self, key: str) -> None:
        """Raises OperationalError if `create` replaces what there is of this key, and what `create` raises."""
        if self.create(key, b"another"):
            raise OperationalError(
                f"{self.root}: overwrites what shall only be created, so that two machines could work on one run; "
                "use another storage"
            )


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
