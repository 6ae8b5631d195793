"""Small files that several machines share: in a directory or below an S3 prefix, each written whole."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from pipelines.artifacts.places import state_root
from pipelines.cluster.storage import storage_root
from seqgen.core.errors import BadInput, OperationalError, one_line
from seqgen.core.files import write_bytes

_REFUSALS = ("AccessDenied", "NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "404")


class Place(Protocol):
    """Files by name. Every call raises OperationalError if the place does not serve us, BadInput if it refuses us."""

    address: str

    def read(self, name: str) -> bytes | None:
        """The content of a file, None if it is not there."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole, over what was there."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that is not there yet; of several who try at once one succeeds. Whether we did."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...

    def names(self) -> list[str]:
        """The files there are, in order."""
        ...


def shared() -> bool:
    """Whether SEQGEN_STORAGE names a place that other machines may use too."""
    return bool(os.environ.get("SEQGEN_STORAGE"))


def place_of(recipe: str) -> Place:
    """Where a recipe's retrainings are written down: in the shared storage, else in this machine's state."""
    root = storage_root() if shared() else str(state_root())
    address = f"{root}/retrain/{recipe}"
    return Bucket(address) if root.startswith("s3://") else Folder(Path(address))


class Folder:
    """A directory, on this machine or of a network file system that has atomic hard links (NFS has)."""

    def __init__(self, path: Path) -> None:
        self.path, self.address = path, str(path)

    def read(self, name: str) -> bytes | None:
        """See Place."""
        with self._explained():
            try:
                return (self.path / name).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """See Place."""
        with self._explained():
            write_bytes(self.path / name, content)

    def create(self, name: str, content: bytes) -> bool:
        """See Place."""
        with self._explained():
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.path, prefix=".", suffix=".tmp") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
                try:
                    os.link(stream.name, self.path / name)
                except FileExistsError:
                    return False
                return True

    def remove(self, name: str) -> None:
        """See Place."""
        with self._explained():
            (self.path / name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        """See Place."""
        with self._explained():
            if not self.path.is_dir():
                return []
            return sorted(path.name for path in self.path.iterdir() if not path.name.startswith("."))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OperationalError(f"{self.address}: {error.strerror or error}") from error


class Bucket:
    """An S3 prefix, on a server that knows `If-None-Match` (S3, SeaweedFS, MinIO and Ceph do)."""

    def __init__(self, address: str) -> None:
        import boto3
        from botocore.config import Config

        self.address = address
        parts = urlsplit(address)
        self._bucket, self._prefix = parts.netloc, parts.path.strip("/")
        timeouts = Config(
            connect_timeout=10, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 4}
        )
        with self._explained():
            self._client: Any = boto3.Session().client("s3", config=timeouts)

    def read(self, name: str) -> bytes | None:
        """See Place."""
        with self._explained():
            try:
                return self._client.get_object(Bucket=self._bucket, Key=self._key(name))["Body"].read()
            except self._client.exceptions.NoSuchKey:
                return None

    def write(self, name: str, content: bytes) -> None:
        """See Place."""
        with self._explained():
            self._client.put_object(Bucket=self._bucket, Key=self._key(name), Body=content)

    def create(self, name: str, content: bytes) -> bool:
        """See Place."""
        from botocore.exceptions import ClientError

        with self._explained():
            try:
                self._client.put_object(
                    Bucket=self._bucket, Key=self._key(name), Body=content, IfNoneMatch="*"
                )
            except ClientError as error:
                if error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict"):
                    return self.read(name) == content  # our own, if an answer was lost and boto3 tried again
                raise
            return True

    def remove(self, name: str) -> None:
        """See Place."""
        with self._explained():
            self._client.delete_object(Bucket=self._bucket, Key=self._key(name))

    def names(self) -> list[str]:
        """See Place."""
        start = f"{self._prefix}/"
        with self._explained():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=start)
            keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        return sorted(key.removeprefix(start) for key in keys)

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            yield
        except ClientError as error:
            code = str(error.response["Error"]["Code"])
            if code in _REFUSALS:
                raise BadInput(
                    f"{self.address}: {code}; correct SEQGEN_STORAGE or the AWS credentials"
                ) from None
            raise OperationalError(f"{self.address}: {code}") from error
        except NoCredentialsError:
            raise BadInput(f"{self.address}: no AWS credentials found; set AWS_ACCESS_KEY_ID ...") from None
        except BotoCoreError as error:
            raise OperationalError(f"{self.address}: {one_line(error)}") from error
