"""Multi-MNIST: canvases on which several digits lie, and how many lie on each."""

from __future__ import annotations

import itertools

import numpy as np

from data_prep.idx import SIDE
from seqgen.core.errors import BadInput
from seqgen.data.settings import DataConfig

_ROUNDS = 10_000  # of placing digits that must not overlap; four on 64 x 64 took 1,456 for 60,000 canvases


def multi_mnist(
    digits: np.ndarray, data: DataConfig, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """As many canvases as digits, uint8 [N, size, size] in {0, 1}, and the number of digits on each, uint8 [N].

    The number is uniform over `data.digits`. So many different ones of `digits` uint8 [N, 28, 28] lie at uniform
    places among those where all their 28 x 28 pixels fit, ink > 0.5, joined by OR. Without `data.overlap` the places
    on a canvas are uniform among those where the bounding boxes of its digits' ink share no pixel: all of them are
    drawn anew until that is so. Raises BadInput where there are too few digits or no such places are found.
    """
    total, most = len(digits), max(data.digits)
    if most > total:
        raise BadInput(f"data.digits={list(data.digits)}: there are only {total} digits; choose fewer")
    ink = digits > 127
    # numpy draws nothing where there is one choice, so that sets of one number of digits have kept their bytes
    number = np.array(data.digits, np.uint8)[random.integers(len(data.digits), size=total)]
    chosen = _different(total, most, random)
    lies = np.arange(most) < number[:, None]
    corners = _corners(total, most, data.side, random)
    if not data.overlap:
        _move_apart(corners, _boxes(ink)[chosen], lies, data.side, random)
    canvases = np.zeros((total, data.side, data.side), np.uint8)
    for canvas, digit in np.argwhere(lies).tolist():
        top, left = corners[canvas, digit]
        canvases[canvas, top : top + SIDE, left : left + SIDE] |= ink[chosen[canvas, digit]]
    return canvases, number


def _different(total: int, most: int, random: np.random.Generator) -> np.ndarray:
    """For each of `total` canvases `most` different digits of `total`, uniform: int64 [total, most]."""
    first = random.integers(total, size=total)
    steps = np.zeros((total, 1), np.int64)  # from the first to each, around the ring of all digits
    for column in range(1, most):
        step = random.integers(1, total - column + 1, size=total)
        for taken in np.sort(steps[:, 1:]).T:  # the step-th of those that are left
            step += step >= taken
        steps = np.column_stack([steps, step])
    return (first[:, None] + steps) % total


def _move_apart(
    corners: np.ndarray, boxes: np.ndarray, lies: np.ndarray, size: int, random: np.random.Generator
) -> None:
    """Draw `corners` [N, digits, 2] anew where `boxes` [N, digits, 2, 2] of digits that lie there overlap."""
    clashing = np.arange(len(corners))
    for _ in range(_ROUNDS):
        placed = boxes[clashing] + corners[clashing, :, None]
        clashing = clashing[_clash(placed, lies[clashing])]
        if not len(clashing):
            return
        corners[clashing] = _corners(len(clashing), corners.shape[1], size, random)
    raise BadInput(
        f"data.overlap=false: no places for {lies[clashing[0]].sum()} digits on {size} x {size} in {_ROUNDS:,} tries; "
        "choose fewer data.digits or a larger data.size"
    )


def _corners(canvases: int, digits: int, size: int, random: np.random.Generator) -> np.ndarray:
    """Where the digits' 28 x 28 pixels begin (row, column), uniform: int64 [canvases, digits, 2]."""
    return random.integers(size - SIDE + 1, size=(canvases, digits, 2))


def _boxes(ink: np.ndarray) -> np.ndarray:
    """The bounding box of each digit's ink, bool [N, 28, 28]: its first row and column, and those after its last.

    int64 [N, 2, 2]; a digit without ink has an empty box.
    """
    rows_and_columns = np.stack([ink.any(2), ink.any(1)], 1)
    first = rows_and_columns.argmax(2)
    last = SIDE - rows_and_columns[:, :, ::-1].argmax(2)
    return np.stack([first, np.where(rows_and_columns.any(2), last, 0)], 1)


def _clash(boxes: np.ndarray, on_canvas: np.ndarray) -> np.ndarray:
    """Where two boxes on a canvas share a pixel, bool [M]: boxes [M, digits, 2, 2] as (first, after the last)."""
    clash = np.zeros(len(boxes), bool)
    for one, other in itertools.combinations(range(boxes.shape[1]), 2):
        first = np.maximum(boxes[:, one, 0], boxes[:, other, 0])
        last = np.minimum(boxes[:, one, 1], boxes[:, other, 1])
        clash |= (first < last).all(1) & on_canvas[:, one] & on_canvas[:, other]
    return clash
