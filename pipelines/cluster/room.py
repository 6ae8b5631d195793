"""Room on the disks of this machine that a run writes to."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipelines.artifacts.places import state_root
from pipelines.cluster.storage import storage_root
from seqgen.core.errors import OperationalError

MAKE_ROOM = (
    "make room, or move them: SEQGEN_STORAGE, SEQGEN_STATE, SEQGEN_ARTIFACTS, RAY_TMPDIR, TMPDIR name places"
)
_STORED, _FIRST = "checkpoints", "temporary files"  # where a checkpoint is put, and is written before


def disks() -> Iterator[tuple[Path, list[str]]]:
    """Every disk that runs write to, by a folder on it, and what they write there.

    Checkpoints, products, state, Ray's own files, temporary files.
    """
    root = storage_root()
    places = {
        "state": state_root(),
        "products": Path(os.environ.get("SEQGEN_ARTIFACTS", "artifacts")).resolve(),
        "Ray": Path(os.environ.get("RAY_TMPDIR", "/tmp")),
        _FIRST: Path(tempfile.gettempdir()),
        **({} if root.startswith("s3://") else {_STORED: Path(root)}),
    }
    found: dict[int, tuple[Path, list[str]]] = {}
    for what, path in places.items():
        while not os.access(path, os.F_OK):  # made when it is needed, or not ours to see
            path = path.parent
        found.setdefault(path.stat().st_dev, (path, []))[1].append(what)
    yield from found.values()


def check_room(checkpoint: int, kept: int) -> None:
    """Warn of each disk that `kept` checkpoints, of so many bytes each, do not fit on.

    Raises OperationalError where checkpoints are written and not one fits.
    """
    for path, uses in disks():
        free = shutil.disk_usage(path).free
        here = f"{path} ({', '.join(uses)}): {_size(free)} free"
        if free < checkpoint and {_STORED, _FIRST} & set(uses):
            raise OperationalError(f"{here}, and a checkpoint takes {_size(checkpoint)}; {MAKE_ROOM}")
        if free < (needed := kept * checkpoint):
            text = f"warning: {here}, and {kept} checkpoints take {_size(needed)}; {MAKE_ROOM}"
            print(text, file=sys.stderr, flush=True)


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
