"""A training whose workers have no place in the cluster yet: that it waits, which may be meant, and for what."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

_PENDING = {"PENDING", "RESCHEDULING"}  # Ray's words for a placement group that has no place
_FIRST, _AGAIN = 30.0, 60.0  # seconds without a worker until it is said, and until it is said again


class Waiting:
    """Says that `workers`, with one of `each` resource (CPU, GPU) apiece, wait while others hold what they need."""

    def __init__(self, workers: int, each: Sequence[str], say: Callable[[str], None]) -> None:
        self._workers, self._each, self._say = workers, each, say
        self._due = time.monotonic() + _FIRST

    def look(self, alive: bool) -> None:
        """Call it again and again, with whether any worker lives."""
        now = time.monotonic()
        if alive:
            self._due = now + _FIRST
        elif now >= self._due and (text := self._lack()):
            self._due = now + _AGAIN
            self._say(text)

    def _lack(self) -> str | None:
        """What is waited for, and how much of it is free; None if nothing is."""
        import ray
        from ray.util import placement_group_table

        job = ray.get_runtime_context().get_job_id()  # the end of the names of its placement groups
        states = {group["state"] for name, group in placement_group_table().items() if name.endswith(job)}
        free = {name: ray.available_resources().get(name, 0) for name in self._each}
        # A training of `train.fewest_workers` does not even ask for a place before there is one for so many.
        asks_later = "CREATED" not in states and min(free.values()) < self._workers
        if not (asks_later or states & _PENDING):
            return None
        needs = " and ".join(f"a {name}" for name in self._each)
        several = self._workers > 1
        workers = f"{self._workers} workers with {needs} each" if several else f"1 worker with {needs}"
        return f"waits for {workers}; the cluster has {' and '.join(f'{free[name]:g} {name}s' for name in free)} free"
