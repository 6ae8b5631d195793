"""Omniglot's 105 x 105 drawings made smaller, still binary: no stroke broken, or as published tables have them."""

from __future__ import annotations

import numpy as np

from data_prep.omniglot import SIDE
from seqgen.data.settings import ShrinkRule

_COVERED = (2, 5)  # a pixel of 28 x 28 is ink where ink covers at least 2/5 of it


def shrink(drawings: np.ndarray, size: int, rule: ShrinkRule = "strokes") -> np.ndarray:
    """Ink bool [n, 105, 105] to uint8 [n, size, size] in {0, 1}; size 52 or 28.

    strokes, 52: the top row and left column are dropped, which over all of Omniglot hold the least ink of the edges
    (553 and 243 pixels of 32,460 drawings), then each pixel is the maximum of 2 x 2. strokes, 28: each pixel covers
    3.75 x 3.75 of the drawing and is ink where at least 2/5 of that area is. nearest: rows and columns
    floor(105 i / size), at 28 the files of Bartunov & Vetrov 2018 (GMN) pixel for pixel.
    """
    if rule == "nearest":
        kept = np.arange(size) * SIDE // size
        return drawings[:, kept[:, None], kept].astype(np.uint8)
    if size == 52:
        return drawings[:, 1:, 1:].reshape(-1, 52, 2, 52, 2).max(axis=(2, 4)).astype(np.uint8)
    rows = overlap(size, SIDE).astype(np.float32)
    covered = rows @ drawings.astype(np.float32) @ rows.T  # whole numbers, exact in float32
    part, whole = _COVERED
    return (covered * whole >= part * SIDE * SIDE).astype(np.uint8)


def overlap(size: int, side: int) -> np.ndarray:
    """How much of each of `side` source rows each of `size` target rows covers, in units of 1/size of a source row.

    Whole numbers, float64 [size, side].
    """
    target, source = np.arange(size)[:, None] * side, np.arange(side) * size
    return np.clip(np.minimum(target + side, source + size) - np.maximum(target, source), 0, None).astype(
        float
    )
