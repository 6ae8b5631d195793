"""Randomised attention: x is read at random (appendix B)."""

from __future__ import annotations

import torch
from torch import Tensor

from seqgen.models.attention.forms import AxisAlignedForm
from seqgen.models.attention.spatial_transformer import SpatialTransformer, WindowReader
from seqgen.models.contracts import Reader, Sizes


class RandomAttention(SpatialTransformer):
    """The posterior reads at random; x' is read and the canvas written as by the spatial transformer."""

    def reader(self, channels: int) -> Reader:
        """See Attention."""
        return RandomReader(self.sizes, *self._glimpses(channels))

    def context_reader(self) -> Reader:
        """See Attention."""
        return super().reader(1)


class RandomReader(WindowReader):
    """Reads through J windows that are drawn anew for every image and step, in training and in test.

    A window has the image's shape, its scale s is uniform in [P/H, 1] and its place uniform where all of it lies on the
    image. The windows u are an auxiliary variable on which q(z | u, x) depends and p does not:
    log p(x) >= E_{u, z ~ q(z | u, x)} [log p(x, z) - log q(z | u, x)], for every u alone and so in the mean, and
    p(x, z) / q(z | u, x) is an importance weight of mean p(x).
    """

    def __init__(self, sizes: Sizes, size: int, channels: int, samples: int = 1, windows: int = 1) -> None:
        super().__init__(AxisAlignedForm(sizes), size, channels, samples, windows)
        self.least = size / min(sizes.height, sizes.width)
        self.random = 3 * windows

    def places(self, image: Tensor, h: Tensor, *uniform: Tensor) -> Tensor:
        """See WindowReader; `uniform` is [B,3J] in [0,1)."""
        scale, x, y = uniform[0].reshape(-1, 3).unbind(1)
        scale = self.least + (1 - self.least) * scale
        return torch.stack([scale, scale, (1 - scale) * (2 * x - 1), (1 - scale) * (2 * y - 1)], 1)
