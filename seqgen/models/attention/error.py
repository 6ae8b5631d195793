"""Attention to the error: x is read where the canvas shows it worst (appendix B)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from seqgen import ops
from seqgen.models.attention.forms import AxisAlignedForm
from seqgen.models.attention.spatial_transformer import SpatialTransformer, WindowReader
from seqgen.models.contracts import Reader, Sizes
from seqgen.settings.catalogue import window_places


class ErrorAttention(SpatialTransformer):
    """The posterior reads where the error is; x' is read and the canvas written as by the spatial transformer."""

    def reader(self, channels: int) -> Reader:
        """See Attention."""
        return ErrorReader(self.sizes, *self._glimpses(channels))

    def context_reader(self) -> Reader:
        """See Attention."""
        return super().reader(1)


class ErrorReader(WindowReader):
    """Reads P x P pixels of x and of its error x - x_hat_{t-1} in the J windows where sum |x - x_hat_{t-1}| is largest.

    The windows are those of a grid half a window apart (`window_places`). Nothing is learned here, and no gradient
    flows through the choice.
    """

    tops: Tensor
    lefts: Tensor
    grid: Tensor
    later: Tensor

    def __init__(
        self, sizes: Sizes, size: int, channels: int = 2, samples: int = 1, windows: int = 1
    ) -> None:
        super().__init__(AxisAlignedForm(sizes), size, channels, samples, windows)
        height, width = sizes.height, sizes.width
        tops, lefts = window_places(height, size), window_places(width, size)
        grid = [  # (s_x, s_y, t_x, t_y), row by row
            (size / width, size / height, (2 * left + size) / width - 1, (2 * top + size) / height - 1)
            for top in tops
            for left in lefts
        ]
        for name, values in (("tops", tops), ("lefts", lefts), ("grid", grid)):
            self.register_buffer(name, torch.tensor(values), persistent=False)
        # Windows of as much ink are as wrong before the first write: the first of them is read, however sums round.
        self.register_buffer("later", 1e-6 * torch.arange(len(grid)), persistent=False)

    def places(self, image: Tensor, h: Tensor, *uniform: Tensor) -> Tensor:
        """See WindowReader; `image` [B,2,H,W] is x beside its error."""
        error = ops.full_precision(image[:, 1:].detach()).abs()
        means = functional.avg_pool2d(error, self.size, stride=1)[:, 0, self.tops][:, :, self.lefts]
        worst = (means.flatten(1) - self.later).topk(self.windows).indices
        return self.grid[worst].flatten(0, 1)
