"""A run's checkpoints in its storage: put there while training goes on, found whole again, kept or removed.

    <run>/step-00000120/...         one checkpoint; complete once its index.json lies there, which is put last
    <run>/step-00000120/report.json its step and score: the held-out bound in nats, infinite where none was measured
    <run>/step-00000120.1/...       that of the same step, put again; the former is removed when this is complete

There is no list of them that could be damaged or lost: what lies there is what there is.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipelines.cluster.unsent import REPORT, Unsent
from pipelines.storage import Altered, Missing, Store
from pipelines.storage.lease import Lease, Lost
from seqgen.core.errors import OperationalError, SeqgenError, one_line

INDEX = "index.json"
MOST_UNSAVED = 10  # checkpoints in a row that could not be put: then training would be for nothing
_PATTERN = re.compile(r"step-(\d+)(?:\.(\d+))?")
_PATIENCE = (2.0, 60.0)  # seconds to the next attempt: the first and the longest wait
Say = Callable[[str], None]


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of run `run` in `store`, of which the `keep` latest and the best are kept.

    What is put is put under the `lease` of the run, if it has one.
    """

    store: Store
    run: str
    keep: int = 2
    lease: Lease | None = None

    def steps(self) -> list[int]:
        """The steps of the complete ones, the newest first. Raises OperationalError or BadInput of the store."""
        names = self._names("step-")
        return sorted({name.step for name, files in names.items() if INDEX in files}, reverse=True)

    def address(self, step: int) -> str:
        """Where the checkpoint of a step lies, as a person is told it. Raises as `steps`."""
        return self._address(next(iter(self._complete(step)), _Name(step, 0)))

    def put(self, step: int, directory: Path, say: Say) -> str:
        """Put the checkpoint of `step` that lies in `directory`, then remove those that are not kept; its address.

        Raises Lost once another process has the run.
        """
        there = self._names(_Name(step, 0))
        name = _Name(step, 1 + max((other.number for other in there), default=-1))
        files = sorted(path for path in directory.iterdir() if path.name != INDEX)
        for path in [*files, directory / INDEX]:
            self._check_lease()
            self.store.put_file(path, self._key(name, path.name))
        self._check_lease()
        try:
            steps = self.steps()
            kept = {*steps[: self.keep], step, self.best(steps)}
            for other, names in self._names("step-").items():
                if other.step not in kept or (other.step == step and other != name):
                    self._remove(other, names)
        except SeqgenError as error:
            say(f"warning: an old checkpoint stays: {error}")
        return self._address(name)

    def score(self, step: int) -> float:
        """The held-out bound of a checkpoint; infinite if there is none, or its report cannot be read."""
        with contextlib.suppress(Altered, ValueError, KeyError, TypeError):
            for name in self._complete(step)[:1]:
                content = self.store.read(self._key(name, REPORT))
                return math.inf if content is None else float(json.loads(content)["score"])
        return math.inf

    def best(self, steps: list[int]) -> int | None:
        """Of `steps` the one of the lowest finite score, the latest of equals."""
        scored = [(score, -step) for step in steps if math.isfinite(score := self.score(step))]
        return -min(scored)[1] if scored else None

    @contextlib.contextmanager
    def fetched(self, step: int) -> Iterator[Path]:
        """A directory with the checkpoint of a step. Raises Damaged, or what the store raises."""
        damage = []
        for name in self._complete(step) or [_Name(step, 0)]:
            with tempfile.TemporaryDirectory(prefix="seqgen-checkpoint-") as directory:
                try:
                    self._fetch(name, Path(directory))
                except Damaged as error:
                    damage.append(str(error))
                    continue
                yield Path(directory)
                return
        raise Damaged("; ".join(damage))

    def newest_whole(self, say: Say) -> int | None:
        """The step of the newest checkpoint that is not damaged; None if there is none at all.

        Says which are passed over, and why. Raises OperationalError if all are damaged, BadInput if the newest was
        made by a version that this one cannot read.
        """
        tried = []
        for name in (name for step in self.steps() for name in self._complete(step)):
            with tempfile.TemporaryDirectory(prefix="seqgen-checkpoint-") as directory:
                try:
                    self._fetch(name, Path(directory))
                    return name.step
                except Damaged as error:
                    tried.append(self._address(name))
                    say(f"warning: checkpoint {tried[-1]} is damaged and passed over: {error}")
        if tried:
            raise OperationalError(
                f"run {self.run}: no checkpoint is whole; tried {', '.join(tried)}. Start anew with --force-new"
            )
        return None

    def _check_lease(self) -> None:
        if self.lease is not None:
            self.lease.check()

    def _fetch(self, name: _Name, directory: Path) -> None:
        """Fetch what lies under `name`. Raises Damaged, or what the store raises."""
        from seqgen.training.checkpoint import read_index

        try:
            for key in self.store.list(f"{self.run}/{name}/"):
                self.store.get_file(key, directory / key.rpartition("/")[2])
        except (Altered, Missing) as error:
            raise Damaged(str(error)) from error
        try:
            read_index(directory)
        except OperationalError as error:
            raise Damaged(str(error).replace(str(directory), self._address(name))) from error

    def _complete(self, step: int) -> list[_Name]:
        """Those of a step, the latest first: more than one where a kill kept the former from being removed."""
        names = self._names(_Name(step, 0))
        return sorted((name for name, files in names.items() if INDEX in files), reverse=True)

    def _names(self, prefix: object) -> dict[_Name, list[str]]:
        """What there is, complete or not, by name: its files. Of one step, if `prefix` is a name."""
        found: dict[_Name, list[str]] = {}
        for key in self.store.list(f"{self.run}/{prefix}"):
            *_, folder, file = key.split("/")
            if match := _PATTERN.fullmatch(folder):
                found.setdefault(_Name(int(match[1]), int(match[2] or 0)), []).append(file)
        if isinstance(prefix, _Name):  # a longer number begins like a shorter one
            found = {name: files for name, files in found.items() if name.step == prefix.step}
        return found

    def _remove(self, name: _Name, files: list[str]) -> None:
        """The index first: what is left of a removal that is interrupted is no checkpoint."""
        self.store.delete([self._key(name, INDEX)])
        self.store.delete([self._key(name, file) for file in files if file != INDEX])

    def _address(self, name: _Name) -> str:
        return f"{self.store.root}/{self.run}/{name}"

    def _key(self, name: _Name, file: str) -> str:
        return f"{self.run}/{name}/{file}"


class _Name(NamedTuple):
    """Of a checkpoint's folder: the step, and how often one of this step was put before."""

    step: int
    number: int

    def __str__(self) -> str:
        return f"step-{self.step:08d}" + (f".{self.number}" if self.number else "")


class Damaged(OperationalError):
    """A checkpoint that is not what was put."""


class Uploads:
    """Puts checkpoints in a thread of its own: training waits for no storage, and goes on through an outage of it.

    Of those that wait their turn only the newest and the best are kept. What still waits when the process ends, even
    by SIGKILL, is found by the next one on this machine (`send_left`).
    """

    def __init__(self, checkpoints: Checkpoints, say: Say) -> None:
        self._checkpoints, self._say = checkpoints, say
        self._unsent = Unsent(checkpoints.store.root, checkpoints.run)
        self._changed = threading.Condition()
        self._waiting: dict[int, tuple[Path, float]] = {}  # step: where it lies, its score
        self._putting: Path | None = None  # the directory that is read at this moment
        self.lost: Lost | None = None  # set once another process has the run: nothing is put any more
        self._unsaved, self._reason = 0, ""  # checkpoints since the last that was put; why they are not
        self._unwritten = ""  # why the last one is not even on this machine's disk
        threading.Thread(target=self._work, name="uploads", daemon=True).start()

    def add(self, step: int, score: float, write: Callable[[Path], None]) -> None:
        """Let `write` fill a directory with the checkpoint of `step`, which is put as soon as may be."""
        directory = None
        try:
            directory = self._unsent.new(step, score)
            write(directory)
        except OSError as error:
            if directory is not None:
                self._unsent.remove(directory)
            where = error.filename or directory or tempfile.gettempdir()
            with self._changed:
                self._unsaved += 1
                self._unwritten = (
                    f"{where}: {error.strerror}; make room there, or set TMPDIR to another place"
                )
                self._failed(self._unwritten)
            return
        with self._changed:
            self._unsaved, self._unwritten = self._unsaved + 1, ""
            if self.lost:
                self._unsent.remove(directory)
                return
            self._drop(step)  # saved within the epoch, and again at its end: the later one has the bound
            self._waiting[step] = (directory, score)
            best = min(self._waiting, key=lambda step: (self._waiting[step][1], -step))
            for old in self._waiting.keys() - {step, best}:
                self._drop(old)
            self._changed.notify_all()

    def send_left(self, began: str = "") -> None:
        """Put what a process that died had not, of the run that `began` so. Call before the first `add`.

        Raises what the store raises, and BadInput for a checkpoint that another version made.
        """
        self._unsent = Unsent(self._checkpoints.store.root, self._checkpoints.run, began)
        try:
            for left in self._unsent.left():
                address = self._checkpoints.put(left.step, left.directory, self._say)
                self._unsent.remove(left.directory)
                self._say(f"saved now, as its process ended before it could: {address}")
        except OSError as error:
            self._say(
                f"warning: whether checkpoints were left here unsaved cannot be seen: {one_line(error)}"
            )

    @property
    def failure(self) -> str | None:
        """Why it is time to stop: too many checkpoints in a row were not saved."""
        if self._unsaved < MOST_UNSAVED or not self._reason:
            return None
        return f"the last {self._unsaved} checkpoints could not be saved: {self._reason}"

    def finish(self, seconds: float) -> None:
        """Wait until all is put. Raises Lost, and OperationalError where the last could not even be written, or,
        naming what is left here, after `seconds`.
        """
        with self._changed:
            done = self._changed.wait_for(lambda: not self._waiting, seconds)
            if self.lost:
                raise self.lost
            if done and self._unwritten:
                raise OperationalError(f"the last checkpoint could not be saved: {self._unwritten}")
            if done:
                self._unsent.close()
                return
            left = ", ".join(str(directory) for directory, _ in self._waiting.values())
            reason = self._reason or "the storage is slow; SEQGEN_UPLOAD_SECONDS allows more"
            raise OperationalError(
                f"not saved within {seconds:g} s: {reason}; it lies in {left}, and is saved when the "
                "run is gone on with on this machine"
            )

    def _work(self) -> None:
        patience = _PATIENCE[0]
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                step = max(self._waiting)
                self._putting = directory = self._waiting[step][0]
            address, reason = self._attempt(step, directory)
            with self._changed:
                self._putting = None
                stale = self._waiting.get(step, (None,))[0] != directory
                if stale:
                    self._unsent.remove(directory)
                if self.lost:
                    for waiting in list(self._waiting):
                        self._drop(waiting)
                    self._changed.notify_all()
                    return
                if reason:
                    self._failed(reason)
                    self._changed.wait(patience)  # or until there is a newer one
                    patience = min(2 * patience, _PATIENCE[1])
                    continue
                if not stale:
                    self._drop(step)
                if self._reason:
                    self._say(f"checkpoints are saved again: {address}")
                self._unsaved, self._reason, patience = 0, "", _PATIENCE[0]
                self._changed.notify_all()

    def _attempt(self, step: int, directory: Path) -> tuple[str, str]:
        """Put a checkpoint: where it lies, or why it could not be."""
        try:
            return self._checkpoints.put(step, directory, self._say), ""
        except Lost as lost:
            self.lost = lost
            return "", ""
        except Exception as error:  # whatever it is: training goes on, and the next attempt may do
            return "", one_line(error) or type(error).__name__

    def _failed(self, reason: str) -> None:
        if not self._reason:
            self._say(
                f"warning: no checkpoint can be saved; training goes on, and it is tried again: {reason}"
            )
        self._reason = reason

    def _drop(self, step: int) -> None:
        """Forget one that waits; what is being put goes when that has ended."""
        directory, _ = self._waiting.pop(step, (None, 0.0))
        if directory is not None and directory != self._putting:
            self._unsent.remove(directory)
