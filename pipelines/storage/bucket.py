"""Files by key below a prefix of an S3 bucket."""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

from data_prep import s3
from pipelines.storage import Leftover, Missing, Store
from pipelines.storage.checks import check_key, check_sha256
from seqgen.core.errors import BadInput
from seqgen.core.files import file_sha256, publish

_AT_ONCE = 1000  # keys that S3 takes in one request to delete
_READS = 5  # of a file that breaks off, as boto3's own downloads
# The object's metadata: what was put and, if it was created, by which attempt.
_SHA256, _ATTEMPT = "sha256", "attempt"
_Value = TypeVar("_Value")


class Bucket(Store):
    """The objects below s3://bucket/prefix; see `pipelines.storage.Store`. Each carries its sha256 as metadata."""

    def __init__(self, root: str) -> None:
        parts = urlsplit(root)
        if not parts.netloc or parts.query or parts.fragment:
            raise BadInput(f"storage {root}: write s3://<bucket>/<prefix>; AWS_ENDPOINT_URL names the server")
        self.root, self._bucket, prefix = root.rstrip("/"), parts.netloc, parts.path.strip("/")
        self._prefix = f"{prefix}/" if prefix else ""

    def put_file(self, local: Path, key: str) -> str:
        sha256, target = file_sha256(local), self._object(key)

        def upload(client: Any) -> None:
            # In parts if it is large; boto3 aborts the upload if one fails for good.
            with local.open("rb") as stream:
                client.upload_fileobj(stream, *target.values(), ExtraArgs={"Metadata": {_SHA256: sha256}})

        self._ask(key, upload)
        return sha256

    def get_file(self, key: str, local: Path, sha256: str | None = None) -> None:
        local.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=local.parent, prefix=f".{local.name}.") as folder:
            part = Path(folder) / local.name
            with part.open("wb") as stream:
                put = self._download(key, stream)
            check_sha256(self._address(key), file_sha256(part), sha256 or put)
            publish(part, local)

    def write(self, key: str, content: bytes) -> str:
        sha256, target = hashlib.sha256(content).hexdigest(), self._object(key)
        self._ask(key, lambda client: client.put_object(**target, Body=content, Metadata={_SHA256: sha256}))
        return sha256

    def create(self, key: str, content: bytes) -> bool:
        sha256, attempt, target = hashlib.sha256(content).hexdigest(), uuid.uuid4().hex, self._object(key)

        def put(client: Any) -> bool:
            metadata = {_SHA256: sha256, _ATTEMPT: attempt}
            try:
                client.put_object(**target, Body=content, Metadata=metadata, IfNoneMatch="*")
                return True
            except Exception as error:
                if s3.code(error) not in ("PreconditionFailed", "ConditionalRequestConflict"):
                    raise
            # It is our own if an answer was lost and boto3 asked again; not there yet, another's is on its way.
            put = _metadata(client, target)
            return put is not None and put.get(_ATTEMPT) == attempt

        return self._ask(key, put)

    def read(self, key: str, sha256: str | None = None, anyones: bool = False) -> bytes | None:
        from botocore.exceptions import FlexibleChecksumError
        from s3transfer.utils import S3_RETRYABLE_DOWNLOAD_ERRORS

        target = self._object(key)

        def fetch(client: Any) -> tuple[bytes | None, str | None]:
            """All in one request; what breaks off, or is altered on its way, is asked for again."""
            for attempt in count(1):
                try:
                    answer = client.get_object(**target)
                    return answer["Body"].read(), answer["Metadata"].get(_SHA256)
                except (*S3_RETRYABLE_DOWNLOAD_ERRORS, FlexibleChecksumError):
                    if attempt == _READS:
                        raise
                except Exception as error:
                    if s3.code(error) == "NoSuchKey":
                        return None, None
                    raise
            raise AssertionError

        content, put = self._ask(key, fetch)
        if content is None:
            return None
        if anyones and sha256 is None and put is None:
            return content
        check_sha256(self._address(key), hashlib.sha256(content).hexdigest(), sha256 or put)
        return content

    def delete(self, keys: Iterable[str]) -> None:
        waiting = iter(keys)
        while some := list(islice(waiting, _AT_ONCE)):
            self._delete(some)

    def exists(self, key: str) -> bool:
        target = self._object(key)["Key"]
        found = self._ask(
            key, lambda client: client.list_objects_v2(Bucket=self._bucket, Prefix=target, MaxKeys=1)
        )
        return any(one["Key"] == target for one in found.get("Contents", ()))  # the first is the shortest

    def sha256(self, key: str) -> str | None:
        target = self._object(key)
        put = self._ask(key, lambda client: _metadata(client, target))
        return None if put is None else put.get(_SHA256)

    def leftovers(self, older_than: timedelta) -> Sequence[Leftover]:
        """Multipart uploads that were neither completed nor aborted: no objects, but paid for."""

        def find(client: Any) -> Iterator[Leftover]:
            pages = client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            for page in pages:
                for found in page.get("Uploads", ()):
                    key = found["Key"].removeprefix(self._prefix)
                    yield Leftover(key, found["UploadId"], found["Initiated"])

        uploads = self._ask("", lambda client: list(find(client)))
        return [upload for upload in uploads if datetime.now(UTC) - upload.begun >= older_than]

    def remove(self, leftover: Leftover) -> None:
        target = self._object(leftover.key)

        def abort(client: Any) -> None:
            try:
                client.abort_multipart_upload(**target, UploadId=leftover.number)
            except Exception as error:
                if s3.code(error) != "NoSuchUpload":
                    raise

        self._ask(leftover.key, abort)

    def preflight(self, creates: bool) -> None:
        super().preflight(creates)
        key = "seqgen-probe"  # an upload in parts needs rights of its own
        begun = self._ask(key, lambda client: client.create_multipart_upload(**self._object(key)))
        self.remove(Leftover(key, begun["UploadId"], datetime.now(UTC)))

    def list(self, prefix: str = "") -> list[str]:
        def find(client: Any) -> list[str]:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            return [found["Key"] for page in pages for found in page.get("Contents", ())]

        keys = self._ask(prefix, find)
        return sorted(key.removeprefix(self._prefix) for key in keys if not key.endswith("/"))

    def _delete(self, keys: Sequence[str]) -> None:
        from botocore.exceptions import ClientError

        what = {"Objects": [{"Key": self._object(key)["Key"]} for key in keys], "Quiet": True}
        answer = self._ask(keys[0], lambda client: client.delete_objects(Bucket=self._bucket, Delete=what))
        for error in answer.get("Errors", ()):
            raise s3.explained(
                f"s3://{self._bucket}/{error['Key']}", ClientError({"Error": error}, "DeleteObjects")
            )

    def _download(self, key: str, stream: IO[bytes]) -> str | None:
        """The object's bytes into `stream`; the sha256 it was put with. Raises Missing."""
        target = self._object(key)

        def download(client: Any) -> str | None:
            stream.seek(0)
            stream.truncate()
            try:
                put = _head(client, target)["Metadata"].get(_SHA256)
                client.download_fileobj(*target.values(), stream)  # what breaks off is asked for again
            except Exception as error:
                if s3.code(error) in ("NoSuchKey", "404"):
                    raise Missing(f"{self._address(key)}: not there") from None
                raise
            return put

        return self._ask(key, download)

    def _ask(self, key: str, call: Callable[[Any], _Value]) -> _Value:
        return s3.ask(self._address(key), call)

    def _address(self, key: str) -> str:
        return f"{self.root}/{key}"

    def _object(self, key: str) -> dict[str, str]:
        check_key(key)
        return {"Bucket": self._bucket, "Key": self._prefix + key}


def _metadata(client: Any, target: dict[str, str]) -> dict[str, str] | None:
    """What the object was put with; None if it is not there."""
    try:
        return _head(client, target)["Metadata"]
    except Exception as error:
        if s3.code(error) in ("NoSuchKey", "404"):
            return None
        raise


def _head(client: Any, target: dict[str, str]) -> dict[str, Any]:
    """The object's headers. A HEAD that is refused has no room for the reason: a GET is told it."""
    try:
        return client.head_object(**target)
    except Exception as error:
        if (s3.code(error) or "").startswith("4"):
            client.get_object(**target)["Body"].close()
        raise
