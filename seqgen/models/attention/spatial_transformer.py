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
        return AffineWriter(self.sizes, self.settings.write_size, self.settings.copy_grid)


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
    its inverse. With a `copy_grid` x' is drawn again beside the sprite (`Copy`).
    """

    def __init__(self, sizes: Sizes, size: int, copy_grid: int = 0) -> None:
        super().__init__()
        self.size, self.sizes = size, sizes
        self.sprite = Linear(sizes.hidden, sizes.canvas_channels * size * size)
        self.window = WindowHead(sizes.hidden, _WHOLE_VIEW)
        self.copy = Copy(sizes, copy_grid) if copy_grid else None

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        """See Writer."""
        sprite = self.sprite(h).view(-1, self.sizes.canvas_channels, self.size, self.size)
        written = ops.affine_sample(sprite, self.window(h), self.sizes.height, self.sizes.width)
        return written if self.copy is None else written + self.copy(context, h)

    def corners(self, h: Tensor, height: int, width: int) -> Tensor:
        """The window on the canvas, [B,4,2]: the sprite's corners mapped by the inverse matrix."""
        matrix = self.window(h).view(-1, 2, 3)
        offsets = _SQUARE.to(matrix) - matrix[:, None, :, 2]
        # A window of zero area has no inverse; the pseudo-inverse draws it as a line or a point.
        points = offsets @ torch.linalg.pinv(matrix[:, :, :2]).mT
        return (points + 1) / 2 * points.new_tensor([width, height])


class Copy(nn.Module):
    """x' drawn again, bent: gate(h) * ST(x', d(h)), the whole canvas at once, [B,Cc,H,W]. Not in the paper.

    d(h) displaces `grid` x `grid` control points that span the image, and between them bilinearly; any affine map is
    one such. What a glimpse of 12 x 12 blurs stays as sharp as it was drawn, and strokes move against each other as
    no affine map moves them. At the start x' lies where it is and the gate, a number a channel, is nearly shut.
    """

    start: Tensor
    displaced: Tensor

    def __init__(self, sizes: Sizes, grid: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.displacement = WindowHead(sizes.hidden, [0.0] * (2 * grid * grid))
        self.gate = Linear(sizes.hidden, sizes.canvas_channels)
        with torch.no_grad():
            self.gate.weight.mul_(0.1)
            self.gate.bias.zero_()
        # Sampling points are linear in the displacements: one product with what never changes.
        whole = torch.tensor(_WHOLE_VIEW).view(1, 2, 3)
        start = functional.affine_grid(whole, [1, 1, sizes.height, sizes.width], align_corners=False)
        rows, columns = (
            functional.interpolate(torch.eye(grid)[None], side, mode="linear", align_corners=True)[0]
            for side in (sizes.height, sizes.width)
        )
        between = torch.einsum("ay,bx->abyx", rows, columns)
        displaced = torch.einsum("abyx,cd->cabyxd", between, torch.eye(2))
        self.register_buffer("start", start.flatten(), persistent=False)
        self.register_buffer("displaced", displaced.reshape(2 * grid * grid, -1), persistent=False)

    def forward(self, context: Tensor, h: Tensor) -> Tensor:
        """`context` [B,1,H,W], `h` [B,D]."""
        with torch.autocast(h.device.type, enabled=False):
            points = torch.addmm(self.start, self.displacement(h), self.displaced)
            shape = (-1, self.sizes.height, self.sizes.width, 2)
            bent = functional.grid_sample(
                ops.full_precision(context), points.view(shape), align_corners=False
            )
        return self.gate(h)[:, :, None, None] * bent
