"""The line between a training's driver and its workers: news one way, a stop the other, and signs of life."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pipelines.cluster.failures import Failure
from seqgen.core.errors import SeqgenError

if TYPE_CHECKING:
    from ray.actor import ActorHandle

_BEAT, _SILENT = 0.5, 10.0  # seconds between two signs, and after which a worker is silent
_ECHO = 2.0  # seconds in which the other workers may fail of the same
# Where a process stands that waits for others.
_WAITING = ("all_reduce", "all_gather", "broadcast", "barrier", "_engine_run_backward")


@dataclass(frozen=True)
class Sign:
    """A worker's sign of life: how often it was asked between steps (None: it is not training), and where it stands."""

    asked: int | None
    place: str
    node: str


@dataclass(frozen=True)
class _Worker:
    """The last sign of a worker, since when it is the same, when it came (monotonic seconds)."""

    sign: Sign
    since: float
    heard: float


class Orders(NamedTuple):
    """What the driver asks of the workers: to save and stop; how often so far it asked them to save."""

    stop: bool
    saves: int


class Heard(NamedTuple):
    """The news since the last time, the workers that hang, whether any lives, and those that failed, by rank.

    `settled` says that of those no other is about to be one, or to end by itself.
    """

    news: list[Any]
    hanging: list[str]
    alive: bool
    failures: list[Failure]
    settled: bool


class Exchange:
    """The actor in the middle; every call returns at once."""

    def __init__(self) -> None:
        self._news: list[Any] = []
        self._workers: dict[int, _Worker] = {}
        self._failures: dict[int, tuple[Failure, float]] = {}  # by rank, and when it was told
        self._orders = Orders(False, 0)

    def tell(self, news: Any) -> None:
        """A worker has news for the driver."""
        self._news.append(news)

    def beat(self, rank: int, size: int, sign: Sign) -> Orders:
        """One of `size` workers lives, and is told what it shall do."""
        now, before = time.monotonic(), self._workers.get(rank)
        still = before is not None and before.sign.asked == sign.asked
        self._workers[rank] = _Worker(sign, before.since if before and still else now, now)
        self._workers = {rank: worker for rank, worker in self._workers.items() if rank < size}
        return self._orders

    def fail(self, failure: Failure) -> None:
        """A worker failed of what a restart would repeat. The others may wait for it: let the driver end them."""
        self._failures[failure.rank] = failure, time.monotonic()

    def stop(self) -> None:
        """Ask the workers to save and stop."""
        self._orders = self._orders._replace(stop=True)

    def save(self) -> None:
        """Ask the workers to save, and go on."""
        self._orders = self._orders._replace(saves=self._orders.saves + 1)

    def hear(self, seconds: float) -> Heard:
        """What there is to hear since the last time; who has stood still for so many `seconds` hangs."""
        news, self._news = self._news, []
        alive = any(time.monotonic() - worker.heard < _SILENT for worker in self._workers.values())
        training = {rank: worker for rank, worker in self._workers.items() if worker.sign.asked is not None}
        # Where none lives, all are gone, and Ray starts them again.
        hanging = _hanging(training, seconds) if alive else []
        failures = [self._failures[rank][0] for rank in sorted(self._failures)]
        return Heard(news, hanging, alive, failures, self._settled())

    def _settled(self) -> bool:
        """Whether nobody else is about to fail, or to save and end."""
        now = time.monotonic()
        others = [worker for rank, worker in self._workers.items() if rank not in self._failures]
        if any(worker.sign.asked is None and now - worker.heard < _SILENT for worker in others):
            return False
        return not others or any(now - when > _ECHO for _, when in self._failures.values())


def _hanging(workers: dict[int, _Worker], seconds: float) -> list[str]:
    """Those that the others wait for, if all that train have stood still for so long."""
    now = time.monotonic()
    if not workers or any(now - worker.since < seconds for worker in workers.values()):
        return []
    fewest = min(worker.sign.asked or 0 for worker in workers.values())
    behind = {rank: worker for rank, worker in workers.items() if worker.sign.asked == fewest}
    busy = {rank: worker for rank, worker in behind.items() if not _waits(worker, now)}
    return [
        f"rank {rank} on node {worker.sign.node}, for {now - worker.since:.0f} s at {worker.sign.place}"
        for rank, worker in sorted((busy or behind).items())
    ]


def _waits(worker: _Worker, now: float) -> bool:
    """Whether it lives and stands where one waits for the others."""
    return now - worker.heard < _SILENT and any(name in worker.sign.place for name in _WAITING)


class Pulse:
    """A worker's end of the line: gives signs of life in a thread of its own, and learns of a stop by it."""

    def __init__(self, exchange: ActorHandle, rank: int, size: int, node: str) -> None:
        self.asked: int | None = 0
        self.orders: Orders | None = None
        self._exchange, self._rank, self._size, self._node = exchange, rank, size, node
        self._thread = threading.get_ident()
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    def end(self) -> None:
        """Training is over: what comes now is watched by nobody."""
        self.asked = None

    def fail(self, kind: type[SeqgenError], text: str) -> None:
        """Tell the driver of an error that ends the training."""
        import ray
        from ray.exceptions import RayError

        with contextlib.suppress(RayError):
            ray.get(self._exchange.fail.remote(Failure(self._rank, self._size, self._node, kind, text)))

    def _beat(self) -> None:
        import ray
        from ray.exceptions import RayError

        while True:
            sign = Sign(self.asked, self._place(), self._node)
            with contextlib.suppress(RayError):  # the driver is gone, and Ray will end this process
                orders: Any = ray.get(self._exchange.beat.remote(self._rank, self._size, sign))
                self.orders = orders
            time.sleep(_BEAT)

    def _place(self) -> str:
        """Where the training thread stands: the innermost lines of it."""
        names: list[str] = []
        frame = sys._current_frames().get(self._thread)
        while frame is not None and len(names) < 4:
            names.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
            frame = frame.f_back
        return " in ".join(names)
