"""What the tracking server lacks of runs, on disk: a folder a run, which any process can send (`pipelines.replay`).

A run's folder holds, as far as there is any of it,

    run.json        how to open the run, until the server has it whole; the folder is `local-...` until it has an id
    status.json     RUNNING while a process works on it, else the status it ended with
    metrics.jsonl   points of a training, each (metric, step) of which belongs on the server once
    measured.jsonl  points that were measured afterwards, once or again
    files/          what belongs among the run's artifacts
    lock            held by the process that works on the run, or that sends: a killed one holds nothing

and is removed when nothing is left in it. One whose run.json or status.json cannot be read is renamed to
`<id>.damaged`, which nothing reads any more.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.artifacts.places import state_root
from pipelines.tracking.server import warn
from seqgen.core.errors import OperationalError, one_line
from seqgen.core.files import write_json
from seqgen.core.locks import Taken, held

LOCAL = "local-"  # begins the id of a run that is not on the server yet
RUNNING = "RUNNING"
FILES_LIMIT = 1 << 30  # bytes of files that one run may keep here
_LOCK = "lock"
_ASIDE = ".damaged"
_DESCRIPTION = {"name": str, "parent": str | None, "start_time": int, "tags": dict, "parameters": dict}
_STATUS = {"status": str, "time": int}
PATIENCE = 30.0  # seconds for who closes runs of killed processes, or sends: he is soon done

_mutex = threading.RLock()
_holds: dict[
    Path, tuple[contextlib.ExitStack, int]
] = {}  # the folders that this process holds, and how often
_begun: set[Path] = set()  # those whose runs it works on


class Damaged(OperationalError):
    """A file of the spool that cannot be what was written."""


class Point(NamedTuple):
    """One value of one metric, with the time it was logged at, so that sent twice it is the same point."""

    key: str
    value: float
    time: int  # milliseconds since 1970
    step: int


def spool_directory() -> Path:
    """Where what the tracking server did not take is kept, a folder a run."""
    return state_root() / "spool"


def is_local(run_id: str) -> bool:
    """Whether the id is that of a run which was opened without a server."""
    return run_id.startswith(LOCAL)


class Journal:
    """Points on disk, a line each: appended as they come, whole after a kill but for a last line, which is left out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._torn = True  # the file may end within a line

    def append(self, points: Iterable[Point]) -> None:
        """Add points, in microseconds: they are in the system's hands, not yet on the platter. Raises OSError."""
        lines = "".join(json.dumps(point) + "\n" for point in points)
        was_torn, self._torn = self._torn, True
        with self.path.open("ab") as stream:
            stream.write((("\n" if was_torn else "") + lines).encode())
        self._torn = False

    def read(self) -> list[Point]:
        """The points; none if there is no file."""
        points = []
        with contextlib.suppress(FileNotFoundError):
            for line in self.path.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError, TypeError):
                    points.append(Point(*json.loads(line)))
        return points

    def replace(self, points: list[Point]) -> None:
        """Keep these points and no others. Raises OSError."""
        if not points:
            self.path.unlink(missing_ok=True)
            return
        fresh = self.path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        Journal(fresh).append(points)
        fresh.replace(self.path)


class RunSpool:
    """The folder `path` of one run, which need not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, run_id: str) -> RunSpool:
        """That of the run `run_id`."""
        return cls(spool_directory() / run_id)

    @classmethod
    def new(cls, description: dict[str, Any]) -> RunSpool:
        """The folder of a run to be opened as `description` says; this process has begun it. Raises Taken, OSError."""
        spool = cls.of(LOCAL + uuid.uuid4().hex)
        spool.begin()  # first: what it shows to others is then held
        write_json(spool.path / "run.json", description)
        return spool

    @property
    def run_id(self) -> str:
        """The run's id on the server, or a local one."""
        return self.path.name

    @property
    def metrics(self) -> Journal:
        """Points of a training."""
        return Journal(self.path / "metrics.jsonl")

    @property
    def measured(self) -> Journal:
        """Points that were measured afterwards."""
        return Journal(self.path / "measured.jsonl")

    @property
    def files(self) -> Path:
        """What belongs among the run's artifacts, as it shall lie there."""
        return self.path / "files"

    @contextlib.contextmanager
    def hold(self, timeout: float = 0.0) -> Iterator[None]:
        """Be the one process that writes to the folder or sends it. Raises Taken, OSError."""
        self.acquire(timeout)
        try:
            yield
        finally:
            self.release()

    def acquire(self, timeout: float = 0.0) -> None:
        """Hold the folder, once more if this process holds it. Raises Taken, OSError."""
        deadline = time.monotonic() + timeout
        while True:
            with _mutex:
                stack, count = _holds.get(self.path, (contextlib.ExitStack(), 0))
                try:
                    if not count:
                        stack.enter_context(held(self.path / _LOCK))
                    _holds[self.path] = stack, count + 1
                    return
                except Taken:
                    if time.monotonic() >= deadline:
                        raise
            time.sleep(0.1)

    def release(self) -> None:
        """Let go of one hold; with the last one an empty folder is removed."""
        with _mutex:
            stack, count = _holds.pop(self.path)
            if count > 1:
                _holds[self.path] = stack, count - 1
                return
            with stack, contextlib.suppress(OSError):
                if self.is_empty():
                    (self.path / _LOCK).unlink()
                    self.path.rmdir()

    def is_empty(self) -> bool:
        """Whether the server has everything."""
        return {path.name for path in self.path.iterdir()} <= {_LOCK}

    def has_records(self) -> bool:
        """Whether there are points or files."""
        return any((self.path / name).exists() for name in ("metrics.jsonl", "measured.jsonl", "files"))

    def sound(self) -> bool:
        """Whether the folder can be read. One that cannot, and that nobody works on, is set aside, with a warning."""
        try:
            self.description()
            self.status()
        except Damaged as damage:
            try:
                with self.hold():
                    taken = (f"{self.run_id}{_ASIDE}{number or ''}" for number in count())
                    self.rename(next(name for name in taken if not (spool_directory() / name).exists()))
                    warn(f"{damage}; what is kept of the run is set aside in {self.path}")
            except (Taken, OSError) as error:
                warn(f"{damage}; left as it is: {one_line(error)}")
            return False
        return True

    def description(self) -> dict[str, Any] | None:
        """How to open the run, if the server does not have it whole. Raises Damaged."""
        return self._read("run.json", _DESCRIPTION)

    def status(self) -> tuple[str, int] | None:
        """The status that the server lacks, or RUNNING, and since when (ms); None: it has its own. Raises Damaged."""
        kept = self._read("status.json", _STATUS)
        return (kept["status"], kept["time"]) if kept else None

    def keep_status(self, status: str) -> None:
        """Write down the run's status. Raises OSError."""
        write_json(self.path / "status.json", {"status": status, "time": time.time_ns() // 1_000_000})

    def forget_status(self) -> None:
        """The server has it, or shall have none."""
        (self.path / "status.json").unlink(missing_ok=True)

    def keep_files(self, source: Path, folder: str) -> None:
        """Keep a copy of a file, or of a directory's content, for `folder` of the run's artifacts. Raises OSError."""
        needed = sum(path.stat().st_size for path in (source, *source.rglob("*")) if path.is_file())
        if needed > (room := FILES_LIMIT - self._size()):
            raise OSError(f"{source}: {needed:,} bytes, and the spool has room for {room:,} more of this run")
        target = self.files / folder
        target.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)

    def begin(self) -> None:
        """Hold the folder as the process that works on the run, until `end` or death. Raises Taken, OSError."""
        if self.path not in _begun:
            self.acquire(PATIENCE)
            _begun.add(self.path)
        self.keep_status(RUNNING)

    def end(self) -> None:
        """This process no longer works on the run."""
        if self.path in _begun:
            _begun.remove(self.path)
            self.release()

    def is_ours(self) -> bool:
        """Whether this process holds the folder."""
        return self.path in _holds

    def rename(self, run_id: str) -> None:
        """Give the folder the id that the server gave the run; who holds it goes on holding it."""
        with _mutex:
            former, self.path = self.path, spool_directory() / run_id
            former.replace(self.path)
            _holds[self.path] = _holds.pop(former)
            if former in _begun:
                _begun.remove(former)
                _begun.add(self.path)

    def opened(self) -> None:
        """The server has all that `description` says."""
        (self.path / "run.json").unlink()

    def discard(self) -> None:
        """Forget all of it but the lock. Call while it is held."""
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()

    def _size(self) -> int:
        return sum(path.stat().st_size for path in self.files.rglob("*") if path.is_file())

    def _read(self, name: str, form: Mapping[str, Any]) -> dict[str, Any] | None:
        path = self.path / name
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise Damaged(f"{path}: damaged ({one_line(error)})") from None
        for key, kind in form.items():
            if not isinstance(found, dict) or not isinstance(found.get(key), kind):
                raise Damaged(f"{path}: damaged ({key} is missing, or not what belongs there)")
        return found


def spools() -> list[RunSpool]:
    """The folders there are, studies before their trials; damaged ones are set aside."""
    found = [spool for spool in _folders() if _ASIDE not in spool.path.name and spool.sound()]
    return sorted(found, key=lambda spool: (bool((spool.description() or {}).get("parent")), spool.path.name))


def set_aside() -> list[Path]:
    """The folders that were set aside because they are damaged."""
    return sorted(spool.path for spool in _folders() if _ASIDE in spool.path.name)


def _folders() -> Iterator[RunSpool]:
    return (RunSpool(path) for path in spool_directory().glob("*") if path.is_dir())
