"""One thread for the model: the requests that are there go through it together, round by round."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from seqgen.core.errors import SeqgenError
from seqgen.models import SequentialModel
from seqgen.serving.http.refusals import Unavailable
from seqgen.serving.http.tasks import AT_ONCE, Pass, Task, make

_log = logging.getLogger(__name__)


@dataclass
class _Job:
    model: SequentialModel
    task: Task
    future: Future[Any] = field(default_factory=Future)
    wanted: Pass | None = None  # the pass that it waits for
    result: Any = None  # of the last pass, until the task has taken it

    def end(self, result: Any = None, error: BaseException | None = None) -> None:
        with suppress(InvalidStateError):  # nobody waits any more
            self.future.set_exception(error) if error else self.future.set_result(result)


class Batcher:
    """Takes tasks and works on all of them in turn: in a round each comes one pass, or piece of work, further.

    Passes of one kind and model are made together, at most AT_ONCE images at once. A task whose future was cancelled is
    dropped before its next turn. `batched` is told the images of every pass.
    """

    def __init__(self, batched: Callable[[int], None] = lambda images: None) -> None:
        self._batched = batched
        self._jobs: list[_Job] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """How many requests wait or are worked on."""
        with self._changed:
            return len(self._jobs)

    def submit(self, model: SequentialModel, task: Task) -> Future[Any]:
        """What `task` returns, when it is done. Raises Unavailable once it is stopping."""
        job = _Job(model, task)
        with self._changed:
            if self._stopping:
                raise Unavailable("the server is stopping; ask again when it is back")
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def stop(self) -> None:
        """Finish what was taken, take nothing more, and return when all is done."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        while True:
            with self._changed:
                self._jobs = [job for job in self._jobs if not job.future.done()]
                while not self._jobs:
                    if self._stopping:
                        return
                    self._changed.wait()
                jobs = list(self._jobs)
            self._round(jobs)
            del jobs  # an idle server keeps no model that has been replaced

    def _round(self, jobs: list[_Job]) -> None:
        groups: dict[Any, list[_Job]] = defaultdict(list)
        for job in jobs:
            if not job.future.cancelled():
                self._advance(job)
            if job.wanted is not None and not job.future.done():
                groups[id(job.model), job.wanted.kind].append(job)
        for group in groups.values():
            for batch in _batches(group):
                self._make(batch)

    def _advance(self, job: _Job) -> None:
        """Let the task go on to its next pass, or to its end."""
        try:
            job.result, given = None, job.result
            job.wanted = job.task.send(given)
        except StopIteration as end:
            job.end(end.value)
        except Exception as error:
            self._fail([job], error)

    def _make(self, batch: list[_Job]) -> None:
        passes = [job.wanted for job in batch if job.wanted is not None]
        self._batched(sum(one.noise.shape[1] for one in passes))
        try:
            for job, result in zip(batch, make(batch[0].model, passes), strict=True):
                job.result = result
        except Exception as error:
            self._fail(batch, error)

    def _fail(self, jobs: list[_Job], error: Exception) -> None:
        if not isinstance(error, SeqgenError):
            _log.error("a request failed", exc_info=error)
        for job in jobs:
            job.end(error=error)


def _batches(jobs: list[_Job]) -> list[list[_Job]]:
    """The jobs in their order, cut where AT_ONCE images would be exceeded."""
    batches: list[list[_Job]] = []
    images = 0
    for job in jobs:
        assert job.wanted is not None
        size = job.wanted.noise.shape[1]
        if not batches or images + size > AT_ONCE:
            batches.append([])
            images = 0
        batches[-1].append(job)
        images += size
    return batches
