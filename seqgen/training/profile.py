"""Where the time of a training step goes, by torch's profiler."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from seqgen.training.callbacks import Callback, Wish

_BEFORE, _LOOKS = (
    10,
    10,
)  # on a CPU, where every step is looked at; on a GPU a hundred steps are between two looks
_ROWS = 20


class Profile(Callback):
    """Profiles ten steps (on a GPU a hundred) of those that follow, once; `done(table, trace)` gets what came out.

    The table says in which operations the time went, the longest first; the file `trace`, which is gone after the call,
    is for chrome://tracing or ui.perfetto.dev.
    """

    def __init__(self, done: Callable[[str, Path], None], device: torch.device) -> None:
        self._done, self._cuda = done, device.type == "cuda"
        self._before, self._looks = (1, 1) if self._cuda else (_BEFORE, _LOOKS)
        self._asked = 0
        self._profile: profile | None = None

    def wish(self) -> Wish:
        self._asked += 1
        if self._asked == self._before:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._cuda else [])]
            self._profile = profile(activities=activities)
            self._profile.start()
        elif self._profile is not None and self._asked == self._before + self._looks:
            self._tell(self._profile)
            self._profile = None
        return Wish.GO_ON

    def _tell(self, found: profile) -> None:
        found.stop()
        by = "self_cuda_time_total" if self._cuda else "self_cpu_time_total"
        table = found.key_averages().table(sort_by=by, row_limit=_ROWS, max_name_column_width=40)
        with tempfile.TemporaryDirectory(prefix="seqgen-profile-") as name:
            trace = Path(name) / "profile.json.gz"
            found.export_chrome_trace(str(trace))
            self._done(table, trace)
