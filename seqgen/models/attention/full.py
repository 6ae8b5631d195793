"""No attention: the whole image is read and the whole canvas written, fully connected."""

from __future__ import annotations

from torch import Tensor

from seqgen.models.contracts import Attention, Reader, Sizes, Writer
from seqgen.models.layers import Linear


class FullAttention(Attention):
    """Reads every pixel of x, 144 features of x', and writes every pixel."""

    def reader(self, channels: int) -> Reader:
        """See Attention."""
        return FullReader(self.sizes, channels)

    def context_reader(self) -> Reader:
        """See Attention."""
        return FullContext(self.sizes)

    def writer(self) -> Writer:
        """See Attention."""
        return FullWriter(self.sizes)


class FullReader(Reader):
    """Reads the whole image, flattened."""

    def __init__(self, sizes: Sizes, channels: int) -> None:
        super().__init__()
        self.features = channels * sizes.height * sizes.width

    def prepare(self, image: Tensor) -> Tensor:
        """`image` [B,C,H,W] -> [B, C*H*W]."""
        return image.flatten(1)

    def forward(self, prepared: Tensor, h: Tensor) -> Tensor:
        """`prepared` as it is; `h` is not looked at."""
        return prepared


class FullContext(Reader):
    """x' through one linear map, the same at every step."""

    features = 144  # as many numbers as a 12 x 12 glimpse

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.projection = Linear(sizes.height * sizes.width, self.features)

    def prepare(self, image: Tensor) -> Tensor:
        """`image` [B,1,H,W] -> [B,144]."""
        return self.projection(image.flatten(1))

    def forward(self, prepared: Tensor, h: Tensor) -> Tensor:
        """`prepared` as it is; `h` is not looked at."""
        return prepared


class FullWriter(Writer):
    """Writes every pixel of the canvas: f_w(h) = reshape(W h + b)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.shape = (sizes.canvas_channels, sizes.height, sizes.width)
        self.sprite = Linear(sizes.hidden, sizes.canvas_channels * sizes.height * sizes.width)

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        """`h` [B,D] -> [B,Cc,H,W]."""
        return self.sprite(h).view(-1, *self.shape)
