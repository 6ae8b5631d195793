"""Which fused operations are used: those that were faster than torch's when the kernels were built on this chip.

A kernel once did well on one kind of chip and made another five times slower than the textbook. So each operation of
seqgen.ops is timed against its definition on shapes of the family, and only the winners are used.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from seqgen.core.files import write_json
from seqgen.native.build import library_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_ROUNDS = 15


class Row(NamedTuple):
    """One operation, forward and backward over its examples: CPU seconds of torch's version and of the fused one."""

    operation: str
    torch: float
    fused: float

    @property
    def used(self) -> bool:
        """Whether the fused one won."""
        return self.fused < self.torch


def verdict_path(instructions: str) -> Path:
    """Beside the library."""
    return library_path(instructions).with_suffix(".json")


def read_verdict(instructions: str) -> list[Row] | None:
    """What was measured when the library was built; None if nothing was."""
    try:
        rows = json.loads(verdict_path(instructions).read_text())
        return [Row(row["operation"], row["torch"], row["fused"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def complete(rows: list[Row] | None) -> bool:
    """Whether a verdict is there and has every operation: a newer seqgen may have more with the same library."""
    return rows is not None and _examples().keys() <= {row.operation for row in rows}


def measure(instructions: str) -> list[Row]:
    """Time every operation of seqgen.ops on one thread and write the verdict; the library must be the one in use."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [_row(name, examples) for name, examples in _examples().items()]
    finally:
        torch.set_num_threads(threads)
    write_json(verdict_path(instructions), [row._asdict() for row in rows])
    return rows


def _examples() -> dict[str, list[Callable[[], Tensor]]]:
    """The calls by which each operation is measured."""
    import seqgen.ops  # noqa: F401  (they register themselves)
    from seqgen.ops.operation import OPERATIONS

    found = {operation.name: operation.examples() for operation in OPERATIONS.values()}
    return {name: examples for name, examples in found.items() if examples}


def _row(name: str, examples: list[Callable[[], Tensor]]) -> Row:
    from seqgen import native

    seconds: dict[native.Use, list[float]] = {"none": [], "all": []}
    for attempt in range(_ROUNDS + 1):
        for use, times in seconds.items():
            with native.using(use):
                began = time.process_time()
                for example in examples:
                    example().sum().backward()
                if attempt:  # the first is not timed
                    times.append(time.process_time() - began)
    return Row(name, statistics.median(seconds["none"]), statistics.median(seconds["all"]))
