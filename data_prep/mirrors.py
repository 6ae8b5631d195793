"""Mirrors of the raw files, and the origins a file is read from: a folder, an S3 prefix, a web address.

Each opens a file from a byte on.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol
from urllib.parse import urlsplit, urlunsplit

from data_prep import s3
from data_prep.sources import FOLDERS
from seqgen.core.errors import BadInput, OperationalError

_TIMEOUT = 30.0  # seconds without a byte


class Absent(Exception):
    """This origin does not have the file, or does not answer as one that has; another may."""


class Interrupted(Exception):
    """The transfer broke off; it may go on when tried again."""


class PartRefused(Interrupted):
    """The origin has no bytes from there on: the part is not of this file."""


@dataclass
class Reply:
    """An open file: bytes from `start` on (0 where the origin cannot resume), and its whole size if told."""

    stream: IO[bytes] | Any
    start: int
    size: int | None


class Listed(NamedTuple):
    """A file below an S3 prefix: its path from there, its bytes, and when it was written."""

    path: str
    size: int
    modified: datetime


class Origin(Protocol):
    """Where the bytes of one file are. `name` is fit to be shown: no credentials."""

    name: str

    def open(self, start: int) -> contextlib.AbstractContextManager[Reply]:
        """The file from byte `start`. Raises Absent, Interrupted, or BadInput if the origin is wrong."""
        ...


class Mirror(Protocol):
    """An origin of every file: `<folder>/<name>` below its address."""

    def origin(self, path: str) -> Origin:
        """The origin of one file."""
        ...


def open_mirror(address: str) -> Mirror:
    """A mirror from its address: a folder, s3://bucket/prefix or http(s)://host/path.

    Raises BadInput if it is misspelt, does not exist or holds none of the sources, or if an S3 server cannot
    be reached. A website is asked with the first file.
    """
    scheme, separator, _ = address.partition("://")
    if not separator:
        return _Folder(Path(address).expanduser())
    if scheme == "file":
        return _Folder(Path(urlsplit(address).path))
    if scheme == "s3":
        return _Bucket(address)
    if scheme in ("http", "https") and urlsplit(address).hostname:
        return _Website(address.rstrip("/"))
    raise BadInput(
        f"mirror {shown(address)}: not a folder, s3://bucket/prefix or https://host/path; "
        "correct --mirror or SEQGEN_MIRROR"
    )


class ListedMirror(Mirror, Protocol):
    """A mirror that can say what it has."""

    def listed(self) -> Iterator[Listed]:
        """Every file below its address. Raises OperationalError, BadInput."""
        ...


def open_bucket(address: str) -> ListedMirror:
    """The S3 prefix at `address`. Raises as `open_mirror`."""
    return _Bucket(address)


def shown(address: str) -> str:
    """An address without user, password, query and fragment, which may hold secrets."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        netloc = host if parts.port is None else f"{host}:{parts.port}"
    except ValueError:
        return "(not an address)"
    return urlunsplit((parts.scheme, netloc, parts.path, "", "")) if parts.scheme else address


class _Folder:
    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise BadInput(f"mirror {root}: no such folder; correct --mirror or SEQGEN_MIRROR")
        if not any((root / folder).is_dir() for folder in FOLDERS):
            raise BadInput(f"mirror {root}: holds none of the folders {', '.join(FOLDERS)}")
        self._root = root

    def origin(self, path: str) -> Origin:
        return LocalFile(self._root / path)


class LocalFile:
    """A file on this machine."""

    def __init__(self, path: Path) -> None:
        self._path, self.name = path, str(path)

    @contextlib.contextmanager
    def open(self, start: int) -> Iterator[Reply]:
        try:
            stream = self._path.open("rb")
        except FileNotFoundError:
            raise Absent("not there") from None
        except OSError as error:
            raise BadInput(f"{self._path}: cannot be read: {error.strerror}") from error
        with stream:
            yield Reply(stream, 0, os.fstat(stream.fileno()).st_size)


class _Website:
    def __init__(self, address: str) -> None:
        self.address, self.answered = address, False

    def origin(self, path: str) -> Origin:
        return WebFile(f"{self.address}/{path}", self)


class WebFile:
    """A file at a web address, or on the mirror `site`, which must have answered once to be worth a retry."""

    def __init__(self, address: str, site: _Website | None = None) -> None:
        self._address, self._site, self.name = address, site, shown(address)

    @contextlib.contextmanager
    def open(self, start: int) -> Iterator[Reply]:
        headers = {"User-Agent": "seqgen", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            request = urllib.request.Request(self._address, headers=headers)
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
                self._heard()
                if answer.headers.get_content_type() == "text/html":
                    raise Absent("answers with an HTML page, not the file")
                yield _web_reply(answer, start)
        except urllib.error.HTTPError as error:
            self._heard()
            reason = f"HTTP {error.code} {error.reason}"
            if error.code == 416:
                raise PartRefused(reason) from error
            if error.code == 429 or error.code >= 500:
                raise Interrupted(reason) from error
            raise Absent(reason) from error
        except urllib.error.URLError as error:
            raise self._silent(f"cannot be reached: {error.reason}") from error
        except (http.client.InvalidURL, ValueError) as error:
            raise BadInput(f"{self.name}: not a web address: {error}") from error
        except (http.client.HTTPException, OSError) as error:
            raise self._silent(str(error) or type(error).__name__) from error

    def _heard(self) -> None:
        if self._site is not None:
            self._site.answered = True

    def _silent(self, reason: str) -> Exception:
        if self._site is None or self._site.answered:
            return Interrupted(reason)
        return BadInput(f"mirror {shown(self._site.address)}: {reason}; correct --mirror or SEQGEN_MIRROR")


def _web_reply(answer: Any, start: int) -> Reply:
    length = answer.headers.get("Content-Length", "")
    rest = int(length) if length.isdigit() else None
    resumes = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
    first = start if resumes else 0
    return Reply(answer, first, None if rest is None else first + rest)


class _Bucket:
    def __init__(self, address: str) -> None:
        import botocore.exceptions

        self.address, self.answered = address.rstrip("/"), False
        parts = urlsplit(self.address)
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")
        if not self.bucket:
            raise BadInput(f"mirror {address}: no bucket; write s3://bucket/prefix")
        self.errors = botocore.exceptions
        with self.translated(self.address):
            self.client = s3.client()
            try:
                found = self.client.list_objects_v2(
                    Bucket=self.bucket, Prefix=f"{self.prefix}/" if self.prefix else "", MaxKeys=1
                )
            except self.errors.ClientError as error:
                if s3.code(error) != "AccessDenied":  # a reader need not be allowed to list
                    raise
            else:
                if not found.get("KeyCount"):
                    raise BadInput(f"mirror {address}: nothing below this prefix; correct it")
        self.answered = True

    def origin(self, path: str) -> Origin:
        return _S3File(self, path)

    def listed(self) -> Iterator[Listed]:
        start = f"{self.prefix}/" if self.prefix else ""
        with self.translated(self.address):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start)
            for page in pages:
                for found in page.get("Contents", ()):
                    yield Listed(found["Key"].removeprefix(start), found["Size"], found["LastModified"])

    @contextlib.contextmanager
    def translated(self, what: str) -> Iterator[None]:
        """botocore's errors as the project's; `what` names the address."""
        try:
            yield
        except (self.errors.ClientError, self.errors.BotoCoreError, ValueError) as error:
            if s3.code(error) in ("NoSuchKey", "404"):
                raise Absent("not there") from error
            explained = s3.explained(f"mirror {what}", error)
            if isinstance(explained, OperationalError) and s3.code(error) is None and not self.answered:
                explained = BadInput(str(explained))
            raise explained from error


class _S3File:
    def __init__(self, mirror: _Bucket, path: str) -> None:
        self._mirror, self.name = mirror, f"{mirror.address}/{path}"
        self._key = f"{mirror.prefix}/{path}" if mirror.prefix else path

    @contextlib.contextmanager
    def open(self, start: int) -> Iterator[Reply]:
        wanted = {"Range": f"bytes={start}-"} if start else {}
        with self._mirror.translated(self.name):
            try:
                answer = self._mirror.client.get_object(Bucket=self._mirror.bucket, Key=self._key, **wanted)
            except self._mirror.errors.ClientError as error:
                if s3.code(error) == "InvalidRange":
                    raise PartRefused("the part is longer than the file") from error
                raise
        with contextlib.closing(answer["Body"]) as body:
            try:
                yield Reply(body, start, start + answer["ContentLength"])
            except (self._mirror.errors.BotoCoreError, OSError) as error:
                raise Interrupted(str(error)) from error
