"""How the benchmarks measure: clocks, medians taken in turns, the peak of products, memory of a fresh process."""

from __future__ import annotations

import contextlib
import operator
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, flop_registry

Action = Callable[[], object]
Result = TypeVar("Result")

# Rows are a batch's images; inner and outer sizes are those of the family's LSTMs: DRAW's encoder and decoder, the
# paper's decoder given a glimpse of the context.
_FAMILY = ((520, 1024), (356, 1024), (544, 1600))
_BURST = 20  # products between two looks at the clock on a GPU, where one is shorter than its launch


def clock(device: torch.device) -> Callable[[], float]:
    """Seconds of CPU time of all threads on a CPU; on a GPU the wall's, once all that was launched is done."""
    if device.type == "cpu":
        return time.process_time

    def wall() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return wall


def in_turns(actions: Mapping[str, Action], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every action in every round.

    They take turns, each first in every other round, so that all meet the same machine; an untimed round precedes.
    """
    now = clock(device)
    order = list(actions.items())
    for _, action in order:
        action()
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in order:
            began = now()
            action()
            seconds[name].append(now() - began)
        order.reverse()
    return seconds


def matmul_peak(device: torch.device, dtype: torch.dtype, batch: int, attempts: int) -> dict[str, float]:
    """GFLOP/s of the best of `attempts` matrix products at each shape, by its name "MxKxN"."""
    shapes = [(1024, 1024, 1024), *((batch, inner, outer) for inner, outer in _FAMILY)]
    if device.type == "cuda":
        shapes.append((8192, 8192, 8192))
    best = {}
    for m, k, n in shapes:
        a, b = (torch.randn(s, device=device).to(dtype) for s in ((m, k), (k, n)))
        seconds = min(_seconds(partial(operator.matmul, a, b), attempts, device))
        best[f"{m}x{k}x{n}"] = 2e-9 * m * k * n / seconds
    return best


class _Products(TorchDispatchMode):
    """Counts the matrix products and convolutions that pass, and keeps the arguments of one of each shape."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.calls: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket in flop_registry:
            shapes = tree_map_only(Tensor, lambda t: (tuple(t.shape), t.stride(), t.dtype), (args, kwargs))
            key = f"{func} {shapes}"
            self.count[key] += 1
            self.calls.setdefault(key, (func, args, kwargs))
        return func(*args, **kwargs)


def products_of(step: Action, attempts: int, device: torch.device) -> tuple[int, float]:
    """FLOPs of the matrix products and convolutions of `step`, and the seconds they take when run alone.

    Each distinct product is run `attempts` times on the arguments it had, convolutions also channels last; its
    median (of the faster layout) counts as often as the product occurred.
    """
    with FlopCounterMode(display=False) as flops, _Products() as products:
        step()
    seconds = 0.0
    for key, (func, args, kwargs) in products.calls.items():
        with torch.no_grad():
            layouts = [args]
            if any(isinstance(part, Tensor) and part.dim() == 4 for part in args):
                layouts.append(tree_map_only(Tensor, _channels_last, args))
            alone = [_seconds(partial(func, *layout, **kwargs), attempts, device) for layout in layouts]
        seconds += min(map(statistics.median, alone)) * products.count[key]
    return flops.get_total_flops(), seconds


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _seconds(action: Action, attempts: int, device: torch.device) -> list[float]:
    """Seconds of one `action`, `attempts` times, after one untimed."""
    now, burst = clock(device), 1 if device.type == "cpu" else _BURST
    action()
    seconds = []
    for _ in range(attempts):
        began = now()
        for _ in range(burst):
            action()
        seconds.append((now() - began) / burst)
    return seconds


def in_fresh_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """`function(*arguments)` in a process of its own; function, arguments and value must be picklable."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory(action: Action, device: torch.device) -> int:
    """Bytes by which `action` raised the most memory that was ever in use: of the GPU, or resident (Linux).

    On a CPU the figure is that of a fresh process only: memory that was freed before is not seen to be taken again.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        return torch.cuda.max_memory_allocated(device) - before
    with contextlib.suppress(OSError):  # forget the peak of building the model
        Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    action()
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    # Not getrusage: its ru_maxrss begins with that of the process that started this one.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise AssertionError(f"/proc/self/status has no {key}")
