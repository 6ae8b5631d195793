"""Checkpoints on this machine that are not in their run's storage yet: found again when the process died meanwhile."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from seqgen.core.errors import OperationalError

REPORT = "report.json"


class Left(NamedTuple):
    """A whole checkpoint: where it lies, its step, its score (the held-out bound, nats; infinite without one)."""

    directory: Path
    step: int
    score: float


@dataclass(frozen=True)
class Unsent:
    """Those of the run `run` in the storage `root`: below the temporary directory, for this user alone.

    `began` tells it from one of the same name that was removed from the storage, and begun anew.
    """

    root: str
    run: str
    began: str = ""

    @property
    def place(self) -> Path:
        """The folder they lie in."""
        return _ours() / hashlib.sha256(f"{self.root}/{self.run} {self.began}".encode()).hexdigest()[:16]

    def new(self, step: int, score: float) -> Path:
        """A directory for the checkpoint of a step, with its report. Raises OSError."""
        _make(_ours())
        self.place.mkdir(mode=0o700, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix=f"seqgen-checkpoint-{step}-", dir=self.place))
        try:
            (directory / REPORT).write_text(json.dumps({"step": step, "score": score}))
        except OSError:
            self.remove(directory)
            raise
        return directory

    def remove(self, directory: Path) -> None:
        """It was put, or is not wanted any more."""
        shutil.rmtree(directory, ignore_errors=True)

    def close(self) -> None:
        """Nothing more will come: the folder goes, if nothing is in it."""
        with contextlib.suppress(OSError):
            self.place.rmdir()

    def left(self) -> Iterator[Left]:
        """What a process that died left, by step; what it had not written whole is removed. Raises OSError.

        Call while no other process works on the run.
        """
        from seqgen.training.checkpoint import read_index

        if not self.place.is_dir():
            return
        _make(_ours())
        found = []
        for directory in self.place.iterdir():
            try:
                read_index(directory)
                report = json.loads((directory / REPORT).read_text())
                found.append(Left(directory, int(report["step"]), float(report["score"])))
            except (OperationalError, OSError, ValueError, KeyError, TypeError):
                self.remove(directory)
        # Saved within an epoch, and again at its end: the one that has a bound is the later one.
        yield from sorted(found, key=lambda each: (each.step, math.isfinite(each.score)))


def _ours() -> Path:
    return Path(tempfile.gettempdir()) / f"seqgen-unsent-{os.getuid()}"


def _make(folder: Path) -> None:
    """Others may write to the temporary directory, too: what lies under our name must be ours alone."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(
            errno.EPERM, "not a directory of ours alone; remove it, or set TMPDIR", str(folder)
        )
