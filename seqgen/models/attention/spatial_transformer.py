"""The paper's spatial transformer (Jaderberg et al. 2015): bilinear kernel, at windows of several forms."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqgen import ops
from seqgen.models.attention.forms import SQUARE, AxisAlignedForm, Form, SimilarityForm, pixels
from seqgen.models.contracts import Attention, Reader, Sizes, Writer
from seqgen.models.layers import Linear, WindowHead, repeated, summed


class SpatialTransformer(Attention):
    """Windows of `read_size` and `write_size`, anywhere on the image, turned and stretched."""

    form = Form

    def reader(self, channels: int) -> Reader:
        """See Attention."""
        return AffineReader(self.sizes, self.form(self.sizes), *self._glimpses(channels))

    def writer(self) -> Writer:
        """See Attention."""
        settings = self.settings
        form = self.form(self.sizes)
        return AffineWriter(self.sizes, form, settings.write_size, settings.windows, settings.copy_grid)

    def _glimpses(self, channels: int) -> tuple[int, int, int, int]:
        """Side, channels, samples and number of a reader's glimpses."""
        settings = self.settings
        return settings.read_size, channels, settings.samples, settings.windows


class Similarity(SpatialTransformer):
    """Windows that are moved, turned and scaled (Tang, Srivastava and Salakhutdinov 2014)."""

    form = SimilarityForm


class AxisAligned(SpatialTransformer):
    """Upright windows."""

    form = AxisAlignedForm


class WindowReader(Reader):
    """Reads P x P glimpses ST(x, lambda_j) at J windows, side by side (eqs. 4, 11; several windows: appendix B).

    A glimpse's pixel is the mean of `samples` x `samples` bilinear samples within it. With one sample a window that is
    wider than its glimpse skips what lies between: at 12 x 12 of 28 x 28 whole strokes.
    """

    def __init__(self, form: Form, size: int, channels: int, samples: int = 1, windows: int = 1) -> None:
        super().__init__()
        self.form, self.size, self.samples, self.windows = form, size, samples, windows
        self.features = windows * channels * size * size

    def places(self, image: Tensor, h: Tensor, *uniform: Tensor) -> Tensor:
        """lambda, the parameters of every window in its form, [B J, parameters]."""
        raise NotImplementedError

    def forward(self, image: Tensor, h: Tensor, *uniform: Tensor) -> Tensor:
        """`image` [B,C,H,W], `h` [B,D] -> glimpses [B, J*C*P*P]."""
        side = self.size * self.samples
        places = self.places(image, h, *uniform)
        fine = self.form.sample(repeated(image, self.windows), places, side, side)
        glimpse = functional.avg_pool2d(fine, self.samples) if self.samples > 1 else fine
        return glimpse.reshape(-1, self.features)

    def corners(self, image: Tensor, h: Tensor, *uniform: Tensor) -> Tensor:
        """The windows on the image, [B,J,4,2]: the glimpse's corners mapped by the matrix."""
        matrix = self.form.matrix(self.places(image, h, *uniform)).view(-1, 2, 3)
        points = SQUARE.to(matrix) @ matrix[:, :, :2].mT + matrix[:, None, :, 2]
        return pixels(points, image.shape[2], image.shape[3]).unflatten(0, (-1, self.windows))


class AffineReader(WindowReader):
    """Reads where h says: lambda is linear in h_{t-1}."""

    def __init__(
        self, sizes: Sizes, form: Form, size: int, channels: int, samples: int = 1, windows: int = 1
    ) -> None:
        super().__init__(form, size, channels, samples, windows)
        self.window = WindowHead(sizes.hidden, form.whole, windows)

    def places(self, image: Tensor, h: Tensor, *uniform: Tensor) -> Tensor:
        """See WindowReader."""
        return self.window(h)


class AffineWriter(Writer):
    """Writes P x P sprites: f_w(h) = sum_j ST(sprite_j(h), lambda_j(h)), zero outside the windows (sec. 3.2.3).

    lambda maps canvas coordinates to sprite coordinates directly (no inversion), so the window on the canvas is
    its inverse. With a `copy_grid` x' is drawn again beside the sprites (`Copy`).
    """

    def __init__(self, sizes: Sizes, form: Form, size: int, windows: int = 1, copy_grid: int = 0) -> None:
        super().__init__()
        self.sizes, self.form, self.size, self.windows = sizes, form, size, windows
        self.sprite = Linear(sizes.hidden, windows * sizes.canvas_channels * size * size)
        self.window = WindowHead(sizes.hidden, form.whole, windows)
        self.copy = Copy(sizes, copy_grid) if copy_grid else None

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        """See Writer."""
        sprites = self.sprite(h).view(-1, self.sizes.canvas_channels, self.size, self.size)
        placed = self.form.sample(sprites, self.window(h), self.sizes.height, self.sizes.width)
        written = summed(placed, self.windows)
        return written if self.copy is None else written + self.copy(context, h)

    def corners(self, h: Tensor, height: int, width: int) -> Tensor:
        """The windows on the canvas, [B,J,4,2]: the sprite's corners mapped by the inverse matrix."""
        matrix = self.form.matrix(self.window(h)).view(-1, 2, 3)
        offsets = SQUARE.to(matrix) - matrix[:, None, :, 2]
        # A window of zero area has no inverse; the pseudo-inverse draws it as a line or a point.
        points = offsets @ torch.linalg.pinv(matrix[:, :, :2]).mT
        return pixels(points, height, width).unflatten(0, (-1, self.windows))


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
        whole = torch.tensor(Form.whole).view(1, 2, 3)
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
