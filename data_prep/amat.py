"""Larochelle's amat files of binarised MNIST: rows of 784 digits 0 or 1 with one separator after each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.idx import SIDE
from seqgen.core.errors import BadInput

_ROW = 2 * SIDE * SIDE  # bytes: "0 1 ... 0\n"


def read_amat(path: Path) -> np.ndarray:
    """uint8 [N, 28, 28] in {0, 1}. Raises BadInput with the offset of what is wrong."""
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    if content.size == 0 or content.size % _ROW:
        raise BadInput(
            f"{path}: offset {content.size // _ROW * _ROW}: the last row is not {_ROW} bytes; fetch it again"
        )
    pairs = content.reshape(-1, SIDE * SIDE, 2)
    pixels = pairs[..., 0] - np.uint8(ord("0"))  # wraps round below "0"
    separators = np.full(SIDE * SIDE, ord(" "), np.uint8)
    separators[-1] = ord("\n")
    wrong = np.flatnonzero(np.stack([pixels > 1, pairs[..., 1] != separators], axis=-1))
    if wrong.size:
        byte = bytes(content[wrong[:1]])
        raise BadInput(f"{path}: offset {wrong[0]}: byte {byte!r}, not a pixel 0 or 1 and a separator")
    return pixels.reshape(-1, SIDE, SIDE)
