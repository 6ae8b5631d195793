"""What the application's requests share: the model of now, the thread it computes in, limits and counts."""

from __future__ import annotations

import asyncio
from typing import Any

from seqgen.serving.http.batcher import Batcher
from seqgen.serving.http.held_out import HeldOutDrawings
from seqgen.serving.http.limits import Limits
from seqgen.serving.http.metrics import Metrics
from seqgen.serving.http.refusals import TooSlow, Unavailable
from seqgen.serving.http.served import Served
from seqgen.serving.http.tasks import Task


class Service:
    """One model at a time is served; what was asked of the one before is still drawn by that one."""

    def __init__(
        self, limits: Limits, held_out: HeldOutDrawings | None = None, served: Served | None = None
    ) -> None:
        self.limits, self.held_out, self.served = limits, held_out, served
        self.metrics = Metrics()
        self.batcher = Batcher(self.metrics.batched)

    def model(self) -> Served:
        """The model of now. Raises Unavailable while there is none."""
        if self.served is None:
            raise Unavailable("no model is loaded yet; ask again in a few seconds")
        return self.served

    def held_out_of(self, served: Served) -> HeldOutDrawings | None:
        """The held-out drawings, if there are any and of the model's size."""
        drawings = self.held_out
        return drawings if drawings is not None and drawings.shape == served.shape else None

    async def do(self, served: Served, task: Task) -> Any:
        """What `task` returns. Raises Unavailable, TooSlow, or what the task raises."""
        future = self.batcher.submit(served.module, task)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.limits.seconds)
        except TimeoutError:
            raise TooSlow(
                f"not done in {self.limits.seconds:g} s, which is what one request may take; ask for less at once"
            ) from None
