"""A training in a process of its own, started as often as it takes, watched and, when asked, killed."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipelines.chaos.places import Place
from pipelines.cli.signals import check_stop
from pipelines.cluster.connect import elsewhere
from pipelines.cluster.footprints import Footprints
from pipelines.cluster.killing import ClusterProcesses, Killer, LocalProcesses, Process, Processes, What
from seqgen.core.errors import OperationalError

_EPOCH = re.compile(r"^epoch +(\d+)/")
_IN_VAIN = 3  # starts without a new epoch, after which it will not end
_GRACE = 120.0
_RAY_ENDS = 15.0
_LOOK = 5.0  # seconds between two looks at what the processes hold
_START = 60.0  # seconds after which new workers are taken to train, though no epoch has ended


@dataclass
class Supervised:
    """A training, started with the same command as often as it takes."""

    place: Place
    command: list[str]
    footprints: Footprints = field(init=False)
    starts: int = 0
    epoch: int = 0
    heard: float = 0.0  # when an epoch ended last
    kills: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.footprints = Footprints(self.place.footprints)

    def to_the_end(self) -> None:
        """Let it train. Raises OperationalError if it does not end well."""
        with self._started() as process:
            while process.poll() is None:
                check_stop()
                time.sleep(0.2)
        if process.returncode:
            raise OperationalError(f"undisturbed, it ended with code {process.returncode}; see above")

    def killed_to_the_end(self, killer: Killer, among: list[What], every: float, most: int | None) -> None:
        """Kill one of `among` every so many seconds of training, and start it again until it ends well."""
        before, in_vain = 0, 0
        while True:
            with self._started() as process:
                found: Processes = (ClusterProcesses if elsewhere() else LocalProcesses)(process.pid)
                self._kill_until_it_ends(process, found, killer, among, every, most)
            if process.returncode == 0:
                return
            in_vain = in_vain + 1 if self.epoch == before else 0
            before = self.epoch
            if in_vain == _IN_VAIN:
                raise OperationalError(
                    f"no epoch more in {_IN_VAIN} starts, the last of which ended with code {process.returncode}; "
                    "kill less often (--every), or see above"
                )

    def _kill_until_it_ends(
        self,
        process: subprocess.Popen[str],
        found: Processes,
        killer: Killer,
        among: list[What],
        every: float,
        most: int | None,
    ) -> None:
        seen: list[Process] = []
        since, due = 0.0, 0.0
        while process.poll() is None:
            check_stop()
            time.sleep(0.2)
            if most is not None and len(self.kills) >= most:
                continue
            workers, now = found.workers(), time.monotonic()
            if workers != seen:  # new ones: they start, and train from the first epoch they end on
                seen, since, due = workers, now, now + _START + every
            elif self.heard > since:
                due = min(due, self.heard + every)
            if workers and now >= due:
                what = killer.choose(among)
                pids = [victim.pid for victim in killer.kill(found, what)]
                self.kills.append({"what": what, "pids": pids, "epoch": self.epoch, "time": time.time()})
                print(f"killed {what} (pid {', '.join(map(str, pids))}) after epoch {self.epoch}", flush=True)
                seen = []

    @contextlib.contextmanager
    def _started(self) -> Iterator[subprocess.Popen[str]]:
        """The training's process, which is gone with all that it started when the block ends."""
        import psutil

        self.starts += 1
        process = subprocess.Popen(
            self.command,
            env=self.place.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        printer = threading.Thread(target=self._print, args=(process,), daemon=True)
        printer.start()
        family: dict[int, psutil.Process] = {}
        watching = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(process.pid, family, watching), daemon=True)
        watcher.start()
        try:
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
            watching.set()
            watcher.join()
            # The Ray of a killed driver ends by itself; two agents of it take a minute or two.
            for each in psutil.wait_procs(family.values(), timeout=_RAY_ENDS)[1]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            process.kill()
            process.wait()
            printer.join(10)

    def _print(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if "(raylet)" in line:  # Ray's long words on every death
                continue
            print(f"  {line}", end="", flush=True)
            if found := _EPOCH.match(line):
                self.epoch, self.heard = max(self.epoch, int(found[1])), time.monotonic()

    def _watch(self, pid: int, family: dict[int, Any], done: threading.Event) -> None:
        """Remember all that a process starts: after its death nobody can tell; and look at what they hold."""
        import psutil

        looked = time.monotonic()
        while not done.wait(1):
            with contextlib.suppress(psutil.Error):
                driver = psutil.Process(pid)
                children = driver.children(recursive=True)
                for child in children:
                    family.setdefault(child.pid, child)
                if time.monotonic() - looked >= _LOOK:
                    looked = time.monotonic()
                    self.footprints.take([driver, *children])
