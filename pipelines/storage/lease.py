"""A lease on what lies in a store: held by one process of many machines, and free again some time after its death.

The files `lease-000001.json`, `lease-000002.json`, ... are its holders in turn; the last one counts. A holder writes
its own again and again. One whose file stays the same for its `seconds`, as the next one sees it, is dead: no machine's
clock is compared with another's. Who then creates the following file is the next holder: that one of several succeeds
is all that is asked of the storage. A holder that was only away finds that file when it comes back, and stops.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import psutil

from pipelines.storage import Store, open_store
from seqgen.core.errors import OperationalError, SeqgenError, StoppedEarly
from seqgen.core.locks import Taken

_RELEASED = 0.0
_LOOKS = 30  # at a silent holder's file, before it is taken for dead
_LEAVING = 5.0  # seconds to let go in: a storage that does not answer holds up no stop


class Lost(StoppedEarly):
    """Another process has the lease, and goes on."""


@dataclass(frozen=True)
class Lease:
    """One that is held, for every process that writes on its holder's behalf. root: of the store; key: the holder's."""

    root: str
    number: int
    key: str

    def check(self) -> None:
        """Call before writing. Raises Lost once another has it, and what the store raises if that cannot be known."""
        number, last = _last(open_store(self.root))
        if last is not None and (number, last.key) != (self.number, self.key):
            raise Lost(f"{self.root}: was taken over by {last.holder}, which goes on; stopped here")


@contextlib.contextmanager
def leased(store: Store, seconds: float, lock: Path) -> Iterator[Lease]:
    """Hold the lease of `store`, renewed by a thread; once another process has it, this one is stopped as by SIGTERM.

    `seconds` is how long others wait for a holder that is not heard of. `lock` is a lock file that is held meanwhile:
    a former holder that held the same one is dead, and not waited for.
    Raises Taken if another process has it, StoppedEarly once another took it over, and what the store raises.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    holder = f"pid {os.getpid()} on {platform.node()} since {started}"
    mine = _Entry(holder, f"{_identity(lock)}/{uuid.uuid4().hex}", time.time(), seconds)
    lease = Lease(store.root, _take(store, mine), mine.key)
    renewal = _Renewal(store, lease, mine)
    renewal.start()
    try:
        yield lease
    except StoppedEarly:
        if renewal.lost is None:
            raise
        raise renewal.lost from None
    finally:
        renewal.done.set()
        renewal.join(_LEAVING)


class _Entry(NamedTuple):
    """One holder. renewed: seconds since 1970 by its clock, 0 when it let go; seconds: how long it may be silent."""

    holder: str
    key: str
    renewed: float
    seconds: float

    def content(self) -> bytes:
        return json.dumps(self._asdict()).encode()


def _identity(lock: Path) -> str:
    """What no other lock file has, of this machine or another, for as long as the machine runs."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = f"{platform.node()}-{psutil.boot_time():.0f}"
    about = lock.stat()
    return f"{boot}-{about.st_dev}-{about.st_ino}"


def _take(store: Store, mine: _Entry) -> int:
    """Become the next holder; our number."""
    number, last = _last(store)
    if last is not None and last.renewed != _RELEASED and _who(last) != _who(mine):
        _see_dead(store, number, last)
    if not store.create(_name(number + 1), mine.content()):
        first = _last(store)[1]
        raise Taken(store.root, first.holder if first else "unknown")
    store.delete([name for name in _names(store) if name < _name(number)])
    return number + 1


def _who(entry: _Entry) -> str:
    return entry.key.rpartition("/")[0] or entry.key


def _see_dead(store: Store, number: int, last: _Entry) -> None:
    """Wait until a holder was silent for long enough. Raises Taken as soon as it, or another one, is heard of."""
    print(
        f"{store.root} is, or was, worked on by {last.holder}: waiting, for {last.seconds:g} s at most, for a sign "
        "of its life",
        file=sys.stderr,
        flush=True,
    )
    deadline = time.monotonic() + last.seconds
    while time.monotonic() < deadline:
        time.sleep(last.seconds / _LOOKS)
        now = _last(store)
        if now[1] is not None and now[1].renewed == _RELEASED:
            return
        if now != (number, last):
            raise Taken(store.root, (now[1] or last).holder)


def _last(store: Store) -> tuple[int, _Entry | None]:
    """The number of the last holder (0: there was none), and what it wrote."""
    names = _names(store)
    if not names:
        return 0, None
    content = store.read(names[-1], anyones=True)
    try:
        found = json.loads(content or b"{}")
        entry = _Entry(*(found[field] for field in _Entry._fields))
    except (ValueError, TypeError, KeyError) as error:
        raise OperationalError(f"{store.root}/{names[-1]}: damaged ({error}); remove it") from error
    return int(names[-1].removeprefix("lease-").removesuffix(".json")), entry


def _names(store: Store) -> list[str]:
    return [name for name in store.list("lease-") if "/" not in name]


def _name(number: int) -> str:
    return f"lease-{number:06d}.json"


class _Renewal(threading.Thread):
    """Writes our entry again and again, at last that we let go; while the storage is away it tries on."""

    def __init__(self, store: Store, lease: Lease, mine: _Entry) -> None:
        super().__init__(name="lease", daemon=True)
        self.store, self.lease, self.mine = store, lease, mine
        self.done = threading.Event()
        self.lost: Lost | None = None

    def run(self) -> None:
        """Renew three times in `seconds`, until done or lost."""
        silent = False
        while not self.done.wait(self.mine.seconds / 3):
            try:
                self.lease.check()
                self._write(time.time())
                silent = False
            except Lost as lost:
                self.lost = lost
                if not self.done.is_set():
                    os.kill(os.getpid(), signal.SIGTERM)
                return
            except Exception as error:
                if not silent:
                    print(f"warning: the lease cannot be renewed now: {error}", file=sys.stderr, flush=True)
                silent = True
        with contextlib.suppress(SeqgenError):  # it ends by itself
            self._write(_RELEASED)

    def _write(self, renewed: float) -> None:
        self.store.write(_name(self.lease.number), self.mine._replace(renewed=renewed).content())
