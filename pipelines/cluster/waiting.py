"""A training whose workers have no place in the cluster yet: that it waits, which may be meant, and for what."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

_PENDING = ("PENDING", "RESCHEDULING")  # Ray's words for a placement group that has no place
_FIRST, _AGAIN = 30.0, 60.0  # seconds without a worker until it is said, and until it is said again


class Waiting:
    """Says that `workers`, with one of `each` resource (CPU, GPU) apiece, wait while others hold what they need."""

    def __init__(self, workers: int, each: Sequence[str], say: Callable[[str], None]) -> None:
        needs = " and ".join(f"a {name}" for name in each)
        self._workers = f"{workers} workers with {needs} each" if workers > 1 else f"1 worker with {needs}"
        self._each, self._say = each, say
        self._due = time.monotonic() + _FIRST

    def look(self, alive: bool) -> None:
        """Call it again and again, with whether any worker lives."""
        now = time.monotonic()
        if alive:
            self._due = now + _FIRST
        elif now >= self._due and _is_queued():
            self._due = now + _AGAIN
            self._say(f"waits for {self._workers}; the cluster has {_free(self._each)} free")


def _is_queued() -> bool:
    """Whether this job has asked for a place that it has not got."""
    import ray
    from ray.util import placement_group_table

    job = ray.get_runtime_context().get_job_id()  # the end of the names of its placement groups
    return any(
        name.endswith(job) and group["state"] in _PENDING for name, group in placement_group_table().items()
    )


def _free(names: Sequence[str]) -> str:
    import ray

    free = ray.available_resources()
    return " and ".join(f"{free.get(name, 0):g} {name}s" for name in names)
