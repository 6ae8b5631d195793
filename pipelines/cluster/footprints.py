"""What the processes of a training hold while it runs: memory, open files and threads, sampled into a table.

    footprints = Footprints(path)
    footprints.take(processes)  # now and then

`grown` reads the table: what each kind of process held first and last.
"""

from __future__ import annotations

import csv
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

from pipelines.cluster.killing import WORKER

_KINDS = {
    WORKER: "worker",
    "raylet": "raylet",
    "gcs_server": "gcs_server",
    "pipelines.train": "driver",
}
_COLUMNS = ("seconds", "kind", "pid", "age", "mebibytes", "files", "threads")
_SETTLED = 30.0  # seconds after its start; a process still fills what it keeps


class Held(NamedTuple):
    """What a process holds, or the median over those of one kind."""

    mebibytes: float
    files: float
    threads: float

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.mebibytes:.0f} MiB, {self.files:g} files, {self.threads:g} threads"


class Footprints:
    """A table with a row for every process and time, written as it grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._began = path, time.time()
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerow(_COLUMNS)

    def take(self, processes: Iterable[psutil.Process]) -> None:
        """A row for each process that is of a known kind and alive."""
        now = time.time()
        rows = []
        for process in processes:
            try:
                with process.oneshot():
                    words = " ".join(process.cmdline()[:4])
                    kind = next((name for word, name in _KINDS.items() if word in words), None)
                    if kind is None:
                        continue
                    held = Held(process.memory_info().rss / 2**20, process.num_fds(), process.num_threads())
                    age = now - process.create_time()
            except psutil.Error:  # it has just ended
                continue
            rows.append(
                (f"{now - self._began:.0f}", kind, process.pid, f"{age:.0f}", f"{held[0]:.1f}", *held[1:])
            )
        with self._path.open("a", newline="") as stream:
            csv.writer(stream).writerows(rows)


def grown(path: Path) -> dict[str, tuple[Held, Held]]:
    """Of each kind of process, what it held in the first and in the last fifth of the time; settled ones alone.

    A kind without a settled process in either is not in it.
    """
    with path.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if float(row["age"]) >= _SETTLED]
    if not rows:
        return {}
    times = [float(row["seconds"]) for row in rows]
    fifth = (times[-1] - times[0]) / 5
    found: dict[str, tuple[list[Held], list[Held]]] = defaultdict(lambda: ([], []))
    for row, at in zip(rows, times, strict=True):
        held = Held(float(row["mebibytes"]), float(row["files"]), float(row["threads"]))
        if at <= times[0] + fifth:
            found[row["kind"]][0].append(held)
        if at >= times[-1] - fifth:
            found[row["kind"]][1].append(held)
    return {
        kind: (_medians(first), _medians(last)) for kind, (first, last) in found.items() if first and last
    }


def _medians(of: list[Held]) -> Held:
    return Held(*(round(median(column), 1) for column in zip(*of, strict=True)))
