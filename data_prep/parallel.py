"""An ordered map over processes. The result never depends on how many there are."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from seqgen.core.errors import OperationalError
from seqgen.core.machine import cores

Job = TypeVar("Job")
Result = TypeVar("Result")


def parallel_map(
    function: Callable[[Job], Result], jobs: Iterable[Job], processes: int | None = None
) -> Generator[Result, None, None]:
    """Yield `function(job)` for each job, in order; `processes` defaults to the CPUs this process may use.

    What a job raises is raised here; OperationalError if a process dies.
    """
    jobs = list(jobs)
    processes = min(processes or cores(), len(jobs))
    if processes <= 1:
        yield from map(function, jobs)
        return
    # spawn: a fork would copy the threads' locks of whatever program calls this
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(function, jobs)
        except BrokenProcessPool as error:
            raise OperationalError("a data preparation process was killed (out of memory?)") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
