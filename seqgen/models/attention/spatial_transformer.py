"""The paper's spatial transformer (Jaderberg et al. 2015): bilinear kernel, full affine matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqgen import ops
from seqgen.models.contracts import Attention, Reader, Sizes, Writer
from seqgen.models.layers import Linear, WindowHead

# Identity of affine_grid: the window is the whole image.
_WHOLE_VIEW = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
_SQUARE = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


class SpatialTransformer(Attention):
    """Windows of `read_size` and `write_size`, anywhere on the image, turned and stretched."""

    def reader(self, channels: int) -> Reader:
        """See Attention."""
        return AffineReader(self.sizes, self.settings.read_size, channels, self.settings.samples)

    def writer(self) -> Writer:
        """See Attention."""
        return AffineWriter(self.sizes, self.settings.write_size, self.settings.copy_context)


class AffineReader(Reader):
    """Reads a P x P glimpse at 6 affine numbers from h: r = ST(x, lambda(h)) (eqs. 4, 11).

    A glimpse's pixel is the mean of `samples` x `samples` bilinear samples within it. With one sample a window that is
    wider than its glimpse skips what lies between: at 12 x 12 of 28 x 28 whole strokes.
    """

    def __init__(self, sizes: Sizes, size: int, channels: int, samples: int = 1) -> None:
        super().__init__()
        self.size, self.features, self.samples = size, channels * size * size, samples
        self.window = WindowHead(sizes.hidden, _WHOLE_VIEW)

    def forward(self, image: Tensor, h: Tensor) -> Tensor:
        """`image` [B,C,H,W], `h` [B,D] -> glimpse [B, C*P*P]."""
        side = self.size * self.samples
        fine = ops.affine_sample(image, self.window(h), side, side)
        return (functional.avg_pool2d(fine, self.samples) if self.samples > 1 else fine).flatten(1)

    def corners(self, h: Tensor, height: int, width: int) -> Tensor:
        """The window on the image, [B,4,2]: the glimpse's corners mapped by the affine matrix."""
        matrix = self.window(h).view(-1, 2, 3)
        points = _SQUARE.to(matrix) @ matrix[:, :, :2].mT + matrix[:, None, :, 2]
        return (points + 1) / 2 * points.new_tensor([width, height])


class AffineWriter(Writer):
    """Writes a P x P sprite: f_w(h) = ST(sprite(h), lambda(h)), zero outside the window (sec. 3.2.3).

    lambda maps canvas coordinates to sprite coordinates directly (no inversion), so the window on the canvas is
    its inverse. With `copies` the sprite is sprite(h) + gain v_t: what was read of x' may be drawn again,
    elsewhere; the gain, one number a channel, starts at zero.
    """

    def __init__(self, sizes: Sizes, size: int, copies: bool = False) -> None:
        super().__init__()
        self.size, self.sizes = size, sizes
        self.gain = nn.Parameter(torch.zeros(sizes.canvas_channels)) if copies else None
        self.sprite = Linear(sizes.hidden, sizes.canvas_channels * size * size)
        self.window = WindowHead(sizes.hidden, _WHOLE_VIEW)

    def forward(self, h: Tensor, v: Tensor | None = None) -> Tensor:
        """`h` [B,D], `v` [B,P*P] -> [B,Cc,H,W]."""
        sprite = self.sprite(h).view(-1, self.sizes.canvas_channels, self.size, self.size)
        if self.gain is not None and v is not None:
            sprite = sprite + self.gain.view(-1, 1, 1) * v.view(-1, 1, self.size, self.size)
        return ops.affine_sample(sprite, self.window(h), self.sizes.height, self.sizes.width)

    def corners(self, h: Tensor, height: int, width: int) -> Tensor:
        """The window on the canvas, [B,4,2]: the sprite's corners mapped by the inverse matrix."""
        matrix = self.window(h).view(-1, 2, 3)
        offsets = _SQUARE.to(matrix) - matrix[:, None, :, 2]
        # A window of zero area has no inverse; the pseudo-inverse draws it as a line or a point.
        points = offsets @ torch.linalg.pinv(matrix[:, :, :2]).mT
        return (points + 1) / 2 * points.new_tensor([width, height])
