"""What a long measurement has measured so far, so that a second run goes on from there."""

from __future__ import annotations

import contextlib
import io
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.cli.signals import check_stop
from seqgen.core.files import write_bytes

if TYPE_CHECKING:
    import torch


_DAY = 24 * 3600.0  # seconds
_METHOD = "1"  # to be raised where the same choices give other values: partners, noise, estimators


class Kept:
    """Values of images, float64 [N] or [N,...], one file a name, below `directory`/`weights`/`choices`.

    What was measured on other weights, or by another method, is removed a day after it was last written: until then
    another process may be at it.
    """

    def __init__(self, directory: Path, weights: str, choices: str) -> None:
        measured = f"{weights}-{_METHOD}"
        self._directory = directory / measured / choices
        for other in directory.glob("*"):
            with contextlib.suppress(OSError):  # another process removes it, too
                if other.name != measured and other.is_dir() and time.time() - _written(other) > _DAY:
                    shutil.rmtree(other)

    def read(self, name: str, most: int) -> torch.Tensor:
        """The first values, at most `most`; none if there are none."""
        import numpy as np
        import torch

        path = self._path(name)
        found = np.load(path, allow_pickle=False) if path.is_file() else np.empty(0)
        return torch.from_numpy(found[:most])

    def write(self, name: str, values: torch.Tensor) -> None:
        """Keep `values`, whole or not at all."""
        import numpy as np

        stream = io.BytesIO()
        np.save(stream, values.numpy())
        write_bytes(self._path(name), stream.getvalue())

    def in_parts(
        self,
        name: str,
        count: int,
        size: int,
        measure: Callable[[int, torch.Tensor], torch.Tensor],
        known: Callable[[int], None],
    ) -> torch.Tensor:
        """The values of `count` images, measured `size` at a time and kept after each part; goes on from what is kept.

        `measure(part, index)` gives the values of the images at `index`; `known` is told how many were there already.
        """
        import torch

        values = self.read(name, count)
        known(len(values))
        if len(values) == count:
            return values
        for part in range(len(values) // size, -(-count // size)):
            measured = measure(part, torch.arange(part * size, min(count, (part + 1) * size)))
            values = torch.cat([values[: part * size], measured])
            self.write(name, values)
            check_stop()
        return values

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.npy"


def _written(measured: Path) -> float:
    """When a file was last put below the directory, seconds since 1970."""
    return max(directory.stat().st_mtime for directory in (measured, *measured.iterdir()))
