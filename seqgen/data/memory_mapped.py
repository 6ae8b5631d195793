"""Images that do not fit in memory: decoded into a file on local disk that is mapped."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seqgen.core.errors import OperationalError


def spill_directory() -> Path:
    """Where decoded images go that do not fit in memory: TMPDIR, else /var/tmp (/tmp is often memory itself)."""
    return Path(os.environ.get("TMPDIR") or "/var/tmp")


class MappedImages:
    """Images in a file without a name, which goes with the process however it ends; `images` is its mapping.

    What is resident is the kernel's page cache, which it takes back when memory is short.
    """

    images: Tensor

    def __init__(self, parts: Iterable[np.ndarray], shape: tuple[int, int, int], directory: Path) -> None:
        """Write `parts`, uint8 [n,H,W] and together of `shape`, to a file in `directory`.

        Raises OperationalError with the bytes needed and free if the disk does not take them.
        """
        needed = math.prod(shape)
        with _explained(directory, needed):
            if shutil.disk_usage(directory).free < needed:
                raise _no_room(directory, needed)
            file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115, it is closed below
        with file:
            for part in parts:  # written, not stored through the mapping: on a full disk that is a SIGBUS
                with _explained(directory, needed):
                    file.write(part.data)
            with _explained(directory, needed):
                file.flush()
                self._mapping = mmap.mmap(file.fileno(), needed)
        self._mapping.madvise(mmap.MADV_RANDOM)
        self._bytes = needed // shape[0]
        self.images = torch.frombuffer(self._mapping, dtype=torch.uint8).view(shape)

    def ask_for(self, index: Tensor) -> None:
        """Have the images at `index` (int64 [M]) read from disk all at once, not one page fault after another."""
        for start in (index * self._bytes).tolist():
            page = start // mmap.PAGESIZE * mmap.PAGESIZE
            self._mapping.madvise(mmap.MADV_WILLNEED, page, start + self._bytes - page)


@contextlib.contextmanager
def _explained(directory: Path, needed: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _no_room(directory, needed, error.strerror) from error


def _no_room(directory: Path, needed: int, why: str | None = None) -> OperationalError:
    try:
        free = f"{shutil.disk_usage(directory).free:,} are free"
    except OSError as error:
        free = f"it cannot be used ({error.strerror})"
    return OperationalError(
        f"{directory}: the decoded images do not fit in memory and need {needed:,} bytes here, {free}"
        f"{f' ({why})' if why else ''}; make room, set TMPDIR to a directory on a local disk that has it, or stream "
        "the set: train.shuffle_shards"
    )
