"""Attention: reading a glimpse from an image and writing a sprite onto the canvas (secs. 2, 3.2.3).

Three kinds, each a reader and a writer whose window is a function of the LSTM's state h alone:
`Affine*` is the paper's spatial transformer (Jaderberg et al. 2015, bilinear kernel, full affine matrix),
`Gaussian*` is DRAW's grid of Gaussian filters (Gregor et al. 2015), `Full*` is fully connected.
Shapes: B batch, C channels, H x W image, P side of glimpse or sprite, D size of h.
A window's corners are given in pixels, (0, 0) the upper left edge of the image and (W, H) the lower right.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqgen.models import functions, kernels
from seqgen.models.linear import StepLinear
from seqgen.models.precision import full_precision
from seqgen.models.slots import Reader, Writer


class _WindowHead(StepLinear):
    """A linear map from h to window parameters that starts near `bias` whatever h is.

    Under autocast too it is float32: in bfloat16 a place on the image is known to about a pixel.
    """

    def __init__(self, hidden: int, bias: list[float]) -> None:
        super().__init__(hidden, len(bias))
        with torch.no_grad():
            self.weight.mul_(0.1)
            self.bias.copy_(torch.tensor(bias))

    def forward(self, *inputs: Tensor, share: Tensor | None = None) -> Tensor:
        """h [B,D] -> [B, parameters]."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return super().forward(*(full_precision(h) for h in inputs), share=share)

    def product_dtype(self) -> torch.dtype:
        """Never autocast's."""
        return self.weight.dtype


# Identity of affine_grid: the window is the whole image.
_WHOLE_VIEW = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
_SQUARE = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def affine_sample(image: Tensor, matrix: Tensor, height: int, width: int) -> Tensor:
    """ST(x, lambda): bilinear samples of `image` [B,C,h,w] at affine-warped points, [B,C,height,width].

    `matrix` [B,2,3] maps output coordinates in [-1,1] (pixel centres, align_corners=False) to input coordinates;
    points outside the input read zero. Under autocast too it computes in float32.
    """
    shape = [image.shape[0], image.shape[1], height, width]
    image, matrix = full_precision(image), full_precision(matrix)
    with torch.autocast(image.device.type, enabled=False):
        grid = functional.affine_grid(matrix, shape, align_corners=False)
        return functional.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class AffineReader(Reader):
    """Reads a P x P glimpse at 6 affine numbers from h: r = ST(x, lambda(h)) (eqs. 4, 11)."""

    def __init__(self, hidden: int, size: int, channels: int) -> None:
        super().__init__()
        self.size = size
        self.features = channels * size * size
        self.window = _WindowHead(hidden, _WHOLE_VIEW)

    def forward(self, image: Tensor, h: Tensor) -> Tensor:
        """`image` [B,C,H,W], `h` [B,D] -> glimpse [B, C*P*P]."""
        if kernels.available(image, h, self.window.weight):
            sampler = kernels.AffineSample(self.size, self.size)
            return functions.through_window(self.window, h, sampler, image).flatten(1)
        matrix = self.window(h).view(-1, 2, 3)
        return affine_sample(image, matrix, self.size, self.size).flatten(1)

    def corners(self, h: Tensor, height: int, width: int) -> Tensor:
        """The window on the image, [B,4,2]: the glimpse's corners mapped by the affine matrix."""
        matrix = self.window(h).view(-1, 2, 3)
        points = _SQUARE.to(matrix) @ matrix[:, :, :2].mT + matrix[:, None, :, 2]
        return (points + 1) / 2 * points.new_tensor([width, height])


class AffineWriter(Writer):
    """Writes a P x P sprite: f_w(h) = ST(sprite(h), lambda(h)), zero outside the window (sec. 3.2.3).

    lambda maps canvas coordinates to sprite coordinates directly (no inversion), so the window on the canvas is
    its inverse.
    """

    def __init__(self, hidden: int, size: int, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.size, self.channels, self.height, self.width = size, channels, height, width
        self.sprite = StepLinear(hidden, channels * size * size)
        self.window = _WindowHead(hidden, _WHOLE_VIEW)

    def forward(self, h: Tensor) -> Tensor:
        """`h` [B,D] -> [B,C,H,W]."""
        sprite = self.sprite(h).view(-1, self.channels, self.size, self.size)
        if kernels.available(sprite, h, self.window.weight):
            return functions.through_window(
                self.window, h, kernels.AffineSample(self.height, self.width), sprite
            )
        return affine_sample(sprite, self.window(h).view(-1, 2, 3), self.height, self.width)

    def corners(self, h: Tensor, height: int, width: int) -> Tensor:
        """The window on the canvas, [B,4,2]: the sprite's corners mapped by the inverse matrix."""
        matrix = self.window(h).view(-1, 2, 3)
        offsets = _SQUARE.to(matrix) - matrix[:, None, :, 2]
        # A window of zero area has no inverse; the pseudo-inverse draws it as a line or a point.
        points = offsets @ torch.linalg.pinv(matrix[:, :, :2]).mT
        return (points + 1) / 2 * points.new_tensor([width, height])


class FilterBank(NamedTuple):
    """Two sets of P normalised Gaussian filters: `y` [B,P,H], `x` [B,P,W], and the intensity gamma [B]."""

    y: Tensor
    x: Tensor
    gamma: Tensor


class _GaussianWindow(nn.Module):
    """DRAW's five window parameters (gX~, gY~, log sigma^2, log delta~, log gamma) from h, and their filters."""

    def __init__(self, hidden: int, size: int, height: int, width: int, log_gamma: float) -> None:
        super().__init__()
        self.size, self.height, self.width = size, height, width
        # Starts with the whole image in view and filters a quarter of their distance wide, which
        # learns sooner than half of it (benchmarks/starts.py compares starts).
        spread = 2 * math.log(max(self.full_stride / 4, 0.5))
        self.head = _WindowHead(hidden, [0.0, 0.0, spread, 0.0, log_gamma])

    @property
    def full_stride(self) -> float:
        """Pixels between neighbouring filters when the grid spans the image."""
        return (max(self.height, self.width) - 1) / max(self.size - 1, 1)

    def centres(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Filter centres along y and x ([B,P] each, pixels counted from 1), sigma^2 and gamma ([B] each)."""
        grid_x, grid_y, log_variance, log_stride, log_gamma = parameters.unbind(1)
        stride = self.full_stride * log_stride.exp()
        steps = torch.arange(self.size, device=stride.device, dtype=stride.dtype) - (self.size - 1) / 2
        offsets = steps * stride[:, None]
        centre_y = (self.height + 1) / 2 * (grid_y + 1)
        centre_x = (self.width + 1) / 2 * (grid_x + 1)
        return centre_y[:, None] + offsets, centre_x[:, None] + offsets, log_variance.exp(), log_gamma.exp()

    def bank(self, parameters: Tensor) -> FilterBank:
        """`parameters` [B,5], the head's -> filters, each normalised to sum 1 over the image (DRAW eqs. 25-26)."""
        centre_y, centre_x, variance, gamma = self.centres(parameters)
        return FilterBank(
            _filters(centre_y, variance, self.height), _filters(centre_x, variance, self.width), gamma
        )

    def corners(self, h: Tensor) -> Tensor:
        """The rectangle through the outermost filter centres, [B,4,2]."""
        centre_y, centre_x, _, _ = self.centres(self.head(h))
        top, bottom, left, right = (
            edge - 0.5 for edge in (centre_y[:, 0], centre_y[:, -1], centre_x[:, 0], centre_x[:, -1])
        )
        rows = [torch.stack(p, -1) for p in ((left, top), (right, top), (right, bottom), (left, bottom))]
        return torch.stack(rows, 1)


def _filters(centres: Tensor, variance: Tensor, length: int) -> Tensor:
    pixels = torch.arange(1, length + 1, device=centres.device, dtype=centres.dtype)
    logits = -((pixels - centres[:, :, None]) ** 2) / (2 * variance[:, None, None])
    # softmax = the Gaussian's values divided by their sum, without underflow for a window far outside the image.
    return logits.softmax(-1)


class GaussianReader(Reader):
    """Reads gamma * F_Y x F_X^T, P x P numbers a channel (DRAW eq. 27)."""

    def __init__(self, hidden: int, size: int, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.features = channels * size * size
        self.window = _GaussianWindow(hidden, size, height, width, log_gamma=0.0)

    def forward(self, image: Tensor, h: Tensor) -> Tensor:
        """`image` [B,C,H,W], `h` [B,D] -> glimpse [B, C*P*P]."""
        if kernels.available(image, h, self.window.head.weight):
            sampler = kernels.GaussianRead(self.window.size)
            return functions.through_window(self.window.head, h, sampler, image).flatten(1)
        bank = self.window.bank(self.window.head(h))
        glimpse = bank.y[:, None] @ image @ bank.x.mT[:, None]
        return glimpse.flatten(1) * bank.gamma[:, None]

    def read_error(self, x: Tensor, logits: Tensor, h: Tensor) -> Tensor:
        """See Reader."""
        if kernels.available(x, logits, h, self.window.head.weight) and not x.requires_grad:
            sampler = kernels.GaussianRead(self.window.size)
            return functions.through_window(self.window.head, h, sampler, x, logits).flatten(1)
        return super().read_error(x, logits, h)

    def corners(self, h: Tensor, height: int, width: int) -> Tensor:
        """The window on the image, [B,4,2]."""
        return self.window.corners(h)


class GaussianWriter(Writer):
    """Writes (1/gamma) F_Y^T w F_X with a P x P patch w a channel (DRAW eq. 29)."""

    def __init__(self, hidden: int, size: int, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.size, self.channels = size, channels
        self.sprite = StepLinear(hidden, channels * size * size)
        # Normalised filters spread a patch value over stride^2 pixels; gamma starts so that the gain is one.
        stride = (max(height, width) - 1) / max(size - 1, 1)
        self.window = _GaussianWindow(
            hidden, size, height, width, log_gamma=-2 * math.log(stride) if stride else 0.0
        )

    def forward(self, h: Tensor) -> Tensor:
        """`h` [B,D] -> [B,C,H,W]."""
        sprite = self.sprite(h).view(-1, self.channels, self.size, self.size)
        if kernels.available(sprite, h, self.window.head.weight):
            sampler = kernels.GaussianWrite(self.window.height, self.window.width)
            return functions.through_window(self.window.head, h, sampler, sprite)
        bank = self.window.bank(self.window.head(h))
        return bank.y.mT[:, None] @ (sprite / bank.gamma[:, None, None, None]) @ bank.x[:, None]

    def corners(self, h: Tensor, height: int, width: int) -> Tensor:
        """The window on the canvas, [B,4,2]."""
        return self.window.corners(h)


class FullReader(Reader):
    """Reads the whole image, flattened: no attention."""

    fixed = True

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.features = channels * height * width

    def prepare(self, image: Tensor) -> Tensor:
        """`image` [B,C,H,W] -> [B, C*H*W]."""
        return image.flatten(1)

    def forward(self, prepared: Tensor, h: Tensor) -> Tensor:
        """`prepared` as it is; `h` is not looked at."""
        return prepared


class FullContext(Reader):
    """Context without attention: x' through one linear map, the same at every step."""

    fixed = True
    features = 144  # as many numbers as a 12 x 12 glimpse

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(height * width, self.features)

    def prepare(self, image: Tensor) -> Tensor:
        """`image` [B,1,H,W] -> [B,144]."""
        return self.projection(image.flatten(1))

    def forward(self, prepared: Tensor, h: Tensor) -> Tensor:
        """`prepared` as it is; `h` is not looked at."""
        return prepared


class FullWriter(Writer):
    """Writes every pixel of the canvas: f_w(h) = reshape(W h + b)."""

    def __init__(self, hidden: int, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.shape = (channels, height, width)
        self.sprite = StepLinear(hidden, channels * height * width)

    def forward(self, h: Tensor) -> Tensor:
        """`h` [B,D] -> [B,C,H,W]."""
        return self.sprite(h).view(-1, *self.shape)
