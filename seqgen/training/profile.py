"""Where the time of a training step goes, by torch's profiler."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from seqgen.training.callbacks import Callback, Wish

_BEFORE, _STEPS = 10, 10
_ROWS = 20


class Profile(Callback):
    """Profiles ten steps after the first ten, fewer where an evaluation begins before (its first chunk is in it); once.

    `done(table, trace)` gets what came out. The table says how many steps there were and in which operations their time
    went, the longest first; the file `trace`, which is gone after the call, is for chrome://tracing or ui.perfetto.dev.
    It is None, and the table says why, where the training ends before, however it does.
    """

    def __init__(self, done: Callable[[str, Path | None], None], device: torch.device) -> None:
        self._done, self._cuda = done, device.type == "cuda"
        self._steps, self._profile, self._told = 0, None, False  # type: int, profile | None, bool

    def step(self, metrics: Mapping[str, Tensor]) -> None:
        if self._told:
            return
        self._steps += 1
        if self._steps == _BEFORE:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._cuda else [])]
            self._profile = profile(activities=activities)
            self._profile.start()
        elif self._steps == _BEFORE + _STEPS:
            self._stop()

    def wish(self) -> Wish:
        if not torch.is_grad_enabled():  # an evaluation has begun
            self._stop()
        return Wish.GO_ON

    def end(self) -> None:
        self._stop()
        if not self._told:
            self._done(f"no profile: the first {_BEFORE} steps are left out, and no other was taken", None)

    def _stop(self) -> None:
        found, self._profile = self._profile, None
        if found is None:
            return
        found.stop()
        if self._steps == _BEFORE:  # no step is in it: it begins anew after the next
            self._steps -= 1
            return
        self._told = True
        by = "self_cuda_time_total" if self._cuda else "self_cpu_time_total"
        table = found.key_averages().table(sort_by=by, row_limit=_ROWS, max_name_column_width=40)
        with tempfile.TemporaryDirectory(prefix="seqgen-profile-") as name:
            trace = Path(name) / "profile.json.gz"
            found.export_chrome_trace(str(trace))
            self._done(f"where the time of {self._steps - _BEFORE} steps goes:\n{table}", trace)
