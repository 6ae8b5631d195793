"""Locks between processes of one machine: the kernel frees one with its last holder, however that ends.

`with held(path): ...` holds the lock file `path`, which is made if absent and stays; it says who held it last.
`with held(path, timeout=600): ...` waits so many seconds for it. What is held by another raises `Taken`, which
names the holder; who can say better what to do catches it:

    try:
        with held(Path(".seqgen/retrain.lock")):
            ...
    except Taken as taken:
        print(f"already running (holder {taken.holder})")

Children that shall keep the lock while they live get its descriptor: `with held(path) as descriptor:
subprocess.Popen(command, pass_fds=(descriptor,))`.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from seqgen.core.errors import OperationalError

_EVERY = 0.1  # seconds from one attempt to the next


class Taken(OperationalError):
    """Another process holds the lock; `holder`: its pid, machine and start, or "unknown"."""

    def __init__(self, path: Path | str, holder: str) -> None:
        super().__init__(f"{path}: held by another process ({holder}); wait for it to end")
        self.holder = holder


@contextlib.contextmanager
def held(path: Path, *, timeout: float = 0.0, keep: bool = True) -> Iterator[int]:
    """Hold the lock file `path` and yield its descriptor.

    The lock ends when the last process that has the descriptor closed it: a dead holder needs no taking over, and
    children given it (`pass_fds`) keep the lock while they live, even after this process let go. Without `keep` the
    file goes when this process lets go.
    Raises Taken if another holds it for longer than `timeout` seconds; in one process a second `held` is another.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout
    # No link is followed: in a directory that others can write it could lead our line into another file.
    while (descriptor := _take(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)) is None:
        if time.monotonic() >= deadline:
            raise Taken(path, _holder(path))
        time.sleep(_EVERY)
    try:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"pid {os.getpid()} on {platform.node()} since {now}\n".encode())
        yield descriptor
    finally:
        if not keep:
            path.unlink(missing_ok=True)
        os.close(descriptor)


@contextlib.contextmanager
def held_directory(path: Path) -> Iterator[None]:
    """Hold the directory `path` itself, which no file beside it or in it shows. Raises Taken."""
    if (descriptor := _take(path, os.O_RDONLY | os.O_DIRECTORY)) is None:
        raise Taken(path, "unknown")
    try:
        yield
    finally:
        os.close(descriptor)


def _take(path: Path, flags: int) -> int | None:
    """One attempt: the locked descriptor, or None if the lock is another's."""
    # filelock's lock of a descriptor that is ours. Its FileLock would unlock on release, for children that still
    # have the descriptor as well, and takes no directory. Imported late: it costs as much as all of seqgen.core,
    # and what only reads files never locks.
    from filelock import lock_descriptor

    try:
        descriptor = os.open(path, flags, 0o666)
    except FileNotFoundError:
        return None  # its writer renamed it this moment
    try:
        if lock_descriptor(descriptor, blocking=False) and _names(path, descriptor):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _names(path: Path, descriptor: int) -> bool:
    """Whether `path` is still the file of `descriptor`: one removed or renamed meanwhile guards nothing."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or "unknown"
    except OSError:
        return "unknown"
