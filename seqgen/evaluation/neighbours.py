"""How complex images are, without a model of them: each pixel predicted from its ten neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

# (row, column) from the pixel: those before it in raster order, as in JBIG's three-line template.
NEIGHBOURS = (
    *((-2, column) for column in (-1, 0, 1)),
    *((-1, column) for column in (-2, -1, 0, 1, 2)),
    *((0, column) for column in (-2, -1)),
)
_CHUNK = 500  # images at once


@dataclass(frozen=True)
class PixelPredictor:
    """p(x) = prod over pixels of p(pixel | its NEIGHBOURS), which are 0 outside the image: a table, no more."""

    ink: Tensor  # float64 [2^10]: p(pixel = 1) where neighbour j is bit j of the index

    def nats(self, x: Tensor) -> Tensor:
        """-log p(x) of images `x` uint8 [N,1,H,W] in {0, 1}: float64 [N]."""
        costs = torch.stack([-(1 - self.ink).log(), -self.ink.log()])
        return torch.cat([costs[pixel, index].sum((1, 2)) for pixel, index in _indexed(x)])


def fit_pixel_predictor(x: Tensor) -> PixelPredictor:
    """The table of images `x` uint8 [N,1,H,W] in {0, 1}, counts smoothed by Laplace's rule (one more of each)."""
    size = 2 ** len(NEIGHBOURS)
    counts = torch.zeros(2 * size, dtype=torch.int64)
    for pixel, index in _indexed(x):
        counts += torch.bincount((index + size * pixel).flatten(), minlength=2 * size)
    blank, ink = (counts.double() + 1).view(2, size)
    return PixelPredictor(ink / (blank + ink))


def _indexed(x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each chunk of images: its pixels and where in the table they stand, int64 [n,H,W] both."""
    height, width = x.shape[-2:]
    up, side = -min(row for row, _ in NEIGHBOURS), max(column for _, column in NEIGHBOURS)
    for part in x.squeeze(1).long().split(_CHUNK):
        around = pad(part, (side, side, up, 0))
        index = torch.zeros_like(part)
        for bit, (row, column) in enumerate(NEIGHBOURS):
            index += around[:, up + row : up + row + height, side + column : side + column + width] << bit
        yield part, index
