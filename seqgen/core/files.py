"""Files that are either whole or absent: temporary name, sync, rename."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from seqgen.core.errors import OperationalError
from seqgen.core.locks import Taken, held_directory


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`; on success sync it and rename it to `path`, else remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        sync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def publish(temporary: Path, path: Path) -> None:
    """Give a finished file its name, durably: its bytes first, then the name."""
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


@contextlib.contextmanager
def directory_writer(path: Path) -> Iterator[Path]:
    """Give an empty directory beside `path` to fill; on success it takes the place of `path`, else it goes.

    One writer at a time; what a killed one left is removed. Raises OperationalError while another writes.
    """
    building, old = (path.with_name(f".{path.name}.{state}") for state in ("building", "old"))
    building.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(held_directory(building))
        except Taken:
            raise OperationalError(f"{path}: another process is writing it; wait for it to end") from None
        for leftover in building.iterdir():
            _remove(leftover)
        try:
            yield building
            _remove(old)
            if os.path.lexists(path):
                path.replace(old)
            building.replace(path)
            sync_directory(path.parent)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        finally:
            _remove(old)


def _remove(path: Path) -> None:
    """Remove what stands at `path`: a directory, or a file or link that somebody put there."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def sync_directory(path: Path) -> None:
    """Make the names in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_writer(path) as stream:
        stream.write(content)


def create_bytes(path: Path, content: bytes) -> bool:
    """Write `content` to `path` unless it is there; of several who try at once one succeeds. Whether we did.

    The file system must have hard links.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
        Path(stream.name).chmod(0o644)
        try:
            path.hardlink_to(stream.name)
        except FileExistsError:
            # NFS says so of our own as well, if an answer was lost and it tried again.
            return os.fstat(stream.fileno()).st_nlink == 2
    sync_directory(path.parent)
    return True


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, keys in the order given, atomically."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def canonical_json(value: Any) -> str:
    """`value` as JSON with sorted keys and no spaces: one text for one value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical_digest(value: Any) -> str:
    """The sha256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
