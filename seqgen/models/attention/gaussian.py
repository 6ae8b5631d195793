"""DRAW's grid of Gaussian filters (Gregor et al. 2015)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from seqgen import ops
from seqgen.models.contracts import Attention, Reader, Sizes, Writer
from seqgen.models.layers import Linear, WindowHead, repeated, summed


class GaussianAttention(Attention):
    """Grids of `read_size` and `write_size` filters a side, upright."""

    def reader(self, channels: int) -> Reader:
        """See Attention."""
        return GaussianReader(self.sizes, self.settings.read_size, channels, self.settings.windows)

    def writer(self) -> Writer:
        """See Attention."""
        return GaussianWriter(self.sizes, self.settings.write_size, self.settings.windows)


class _Grid(nn.Module):
    """DRAW's five parameters (gX~, gY~, log sigma^2, log delta~, log gamma) of each of J grids, from h."""

    def __init__(self, sizes: Sizes, size: int, log_gamma: float, windows: int) -> None:
        super().__init__()
        self.size, self.height, self.width = size, sizes.height, sizes.width
        # Starts with the whole image in view and filters a quarter of their distance wide, which
        # learns sooner than half of it (benchmarks/starts.py compares starts).
        stride = ops.full_stride(size, sizes.height, sizes.width)
        start = [0.0, 0.0, 2 * math.log(max(stride / 4, 0.5)), 0.0, log_gamma]
        self.head, self.windows = WindowHead(sizes.hidden, start, windows), windows

    def forward(self, h: Tensor) -> Tensor:
        """`h` [B,D] -> [B J,5]."""
        return self.head(h)

    def corners(self, h: Tensor) -> Tensor:
        """The rectangles through the outermost filter centres, [B,J,4,2]."""
        centres_y, centres_x = ops.filter_centres(self(h), self.size, self.height, self.width)
        top, bottom, left, right = (
            edge - 0.5 for edge in (centres_y[:, 0], centres_y[:, -1], centres_x[:, 0], centres_x[:, -1])
        )
        rows = [torch.stack(p, -1) for p in ((left, top), (right, top), (right, bottom), (left, bottom))]
        return torch.stack(rows, 1).unflatten(0, (-1, self.windows))


class GaussianReader(Reader):
    """Reads gamma * F_Y x F_X^T, P x P numbers a channel (DRAW eq. 27), at J grids, side by side."""

    def __init__(self, sizes: Sizes, size: int, channels: int, windows: int = 1) -> None:
        super().__init__()
        self.features = windows * channels * size * size
        self.window = _Grid(sizes, size, log_gamma=0.0, windows=windows)

    def forward(self, image: Tensor, h: Tensor) -> Tensor:
        """`image` [B,C,H,W], `h` [B,D] -> glimpses [B, J*C*P*P]."""
        grid = self.window
        glimpse = ops.filterbank_read(repeated(image, grid.windows), grid(h), grid.size)
        return glimpse.reshape(-1, self.features)

    def corners(self, image: Tensor, h: Tensor, *_: Tensor) -> Tensor:
        """See Reader."""
        return self.window.corners(h)


class GaussianWriter(Writer):
    """Writes (1/gamma) F_Y^T w F_X with a P x P patch w a channel (DRAW eq. 29), summed over J grids."""

    def __init__(self, sizes: Sizes, size: int, windows: int = 1) -> None:
        super().__init__()
        self.size, self.sizes = size, sizes
        self.sprite = Linear(sizes.hidden, windows * sizes.canvas_channels * size * size)
        # Normalised filters spread a patch value over stride^2 pixels; gamma starts so that the gain is one.
        stride = ops.full_stride(size, sizes.height, sizes.width)
        log_gamma = -2 * math.log(stride) if stride else 0.0
        self.window = _Grid(sizes, size, log_gamma, windows)

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        """`h` [B,D] -> [B,Cc,H,W]."""
        sprite = self.sprite(h).view(-1, self.sizes.canvas_channels, self.size, self.size)
        written = ops.filterbank_write(sprite, self.window(h), self.sizes.height, self.sizes.width)
        return summed(written, self.window.windows)

    def corners(self, h: Tensor, height: int, width: int) -> Tensor:
        """See Writer."""
        return self.window.corners(h)
