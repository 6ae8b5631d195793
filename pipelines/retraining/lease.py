"""A lease on shared storage: held by one process of many machines, and free again some time after its holder died.

The files `lease-000001.json`, `lease-000002.json`, ... are its holders in turn; the last one counts. A holder writes
its own again and again. Whose is not written for `seconds` is dead, and who then creates the next file first is the
next holder: that one of several succeeds is all that is asked of the storage. A holder that was only away finds the
next file when it comes back, and stops.
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
from datetime import UTC, datetime
from typing import NamedTuple

from pipelines.retraining.places import Place
from seqgen.core.errors import OperationalError, StoppedEarly
from seqgen.core.locks import Taken

_RELEASED = 0.0


class _Entry(NamedTuple):
    """One holder. renewed: seconds since 1970 by its clock, 0 when it let go; seconds: how long that counts."""

    holder: str
    key: str
    renewed: float
    seconds: float

    def content(self) -> bytes:
        return json.dumps(self._asdict()).encode()


@contextlib.contextmanager
def leased(place: Place, seconds: float) -> Iterator[None]:
    """Hold the lease of `place`, renewed by a thread; once another process has it, this one is stopped as by SIGTERM.

    `seconds` is how long others wait for a holder that is not heard of. Raises Taken if it is held,
    OperationalError if the storage does not serve us or a clock is wrong, StoppedEarly when it was taken over.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    holder = f"pid {os.getpid()} on {platform.node()} since {started}"
    mine = _Entry(holder, uuid.uuid4().hex, time.time(), seconds)
    number = _take(place, mine)
    renewal = _Renewal(place, number, mine)
    renewal.start()
    try:
        yield
    except StoppedEarly:
        if renewal.lost_to is None:
            raise
        raise StoppedEarly(
            f"{place.address}: the lease was taken over by {renewal.lost_to}, which goes on; stopped here"
        ) from None
    finally:
        renewal.done.set()
        renewal.join()
        if renewal.lost_to is None:
            with contextlib.suppress(OperationalError):  # it ends by itself
                place.write(_name(number), mine._replace(renewed=_RELEASED).content())


def _take(place: Place, mine: _Entry) -> int:
    """Become the next holder; our number."""
    number, last = _last(place)
    if last is not None and last.renewed != _RELEASED:
        ahead = last.renewed - time.time()
        if ahead > last.seconds:
            raise OperationalError(
                f"{place.address}/{_name(number)}: renewed {ahead:.0f} s from now by {last.holder}: a clock is wrong; "
                "correct it, and remove that file if its holder is dead"
            )
        if -ahead < last.seconds:
            raise Taken(place.address, last.holder)
    if not place.create(_name(number + 1), mine.content()):
        raise Taken(place.address, _last(place)[1].holder)  # type: ignore[union-attr]  # it is there: another was first
    for name in place.names():
        if name.startswith("lease-") and name < _name(number):
            place.remove(name)
    return number + 1


def _last(place: Place) -> tuple[int, _Entry | None]:
    """The number of the last holder (0: there was none), and what it wrote."""
    names = [name for name in place.names() if name.startswith("lease-")]
    if not names:
        return 0, None
    content = place.read(names[-1])
    try:
        entry = _Entry(**json.loads(content or b"{}"))
    except (ValueError, TypeError) as error:
        raise OperationalError(f"{place.address}/{names[-1]}: damaged ({error}); remove it") from error
    return int(names[-1].removeprefix("lease-").removesuffix(".json")), entry


def _name(number: int) -> str:
    return f"lease-{number:06d}.json"


class _Renewal(threading.Thread):
    """Writes our entry again and again; while the storage is away it tries on."""

    def __init__(self, place: Place, number: int, mine: _Entry) -> None:
        super().__init__(name="lease", daemon=True)
        self.place, self.number, self.mine = place, number, mine
        self.done = threading.Event()
        self.lost_to: str | None = None

    def run(self) -> None:
        """Renew three times in `seconds`, until done or lost."""
        silent = False
        while not self.done.wait(self.mine.seconds / 3):
            try:
                number, last = _last(self.place)
                if last is not None and (number, last.key) != (self.number, self.mine.key):
                    self.lost_to = last.holder
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                self.place.write(_name(self.number), self.mine._replace(renewed=time.time()).content())
                silent = False
            except Exception as error:
                if not silent:
                    print(f"warning: the lease cannot be renewed now: {error}", file=sys.stderr, flush=True)
                silent = True
