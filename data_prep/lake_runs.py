"""Lake's official runs of 20-way one-shot classification (Lake et al. 2015): 20 runs of 20 characters of one alphabet.

runNN/training/classCC.png   one drawing of each character, all by one person
runNN/test/itemII.png        another drawing of each character, all by another person
runNN/class_labels.txt       a line for every test drawing: `<its member> <the training member of its character>`
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.archive import CheckedZip
from data_prep.omniglot import decode_drawing
from seqgen.core.errors import BadInput

RUNS = 20
WAYS = 20

_LABELS = "class_labels.txt"
_MEMBER = re.compile(r"run\d\d/(test/item\d\d\.png|training/class\d\d\.png|class_labels\.txt)")


class LakeRun(NamedTuple):
    """Drawings bool [20,105,105], ink True; int64 [20], each test drawing's answer among the training drawings."""

    name: str
    test: np.ndarray
    training: np.ndarray
    answers: np.ndarray


def read_runs(path: Path) -> list[LakeRun]:
    """The runs in `path` (all_runs.zip), run01 first. Raises BadInput naming the member that is wrong."""
    with CheckedZip(path) as archive:
        names = [name for name in archive.names if not name.startswith("__MACOSX/")]
        for name in names:
            if not _MEMBER.fullmatch(name):
                raise BadInput(f"{path}: member {name!r} is not of Lake's runs; fetch it again")
        runs = sorted({name.partition("/")[0] for name in names})
        if len(runs) != RUNS:
            raise BadInput(f"{path}: {len(runs)} runs, not {RUNS}; fetch it again")
        return [_run(archive, run, [name for name in names if name.startswith(f"{run}/")]) for run in runs]


def _run(archive: CheckedZip, run: str, names: Sequence[str]) -> LakeRun:
    where = f"{archive.path}: {run}"
    test, training = (
        [name for name in names if name.startswith(f"{run}/{part}/")] for part in ("test", "training")
    )
    if len(test) != WAYS or len(training) != WAYS:
        raise BadInput(
            f"{where}: {len(test)} test and {len(training)} training drawings, not {WAYS} each; fetch it again"
        )
    labels = f"{run}/{_LABELS}"
    if labels not in names:
        raise BadInput(f"{where}: no {_LABELS}; fetch it again")
    pairs = [line.split() for line in archive.read(labels).decode("ascii", "replace").splitlines()]
    if any(len(pair) != 2 for pair in pairs) or sorted(pair[0] for pair in pairs) != test:
        raise BadInput(
            f"{archive.path}: member {labels!r}: not one line for each test drawing; fetch it again"
        )
    answer = dict(pairs)
    if sorted(answer.values()) != training:
        raise BadInput(f"{archive.path}: member {labels!r}: not each training drawing once; fetch it again")
    drawings = [
        np.stack([decode_drawing(archive.read(name), f"{archive.path}: member {name!r}") for name in part])
        for part in (test, training)
    ]
    answers = np.array([training.index(answer[item]) for item in test])
    return LakeRun(run, drawings[0], drawings[1], answers)
