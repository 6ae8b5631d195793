"""The hidden canvas: how what is written joins what is there, c_t = f_c(c_{t-1}, h_t) (eq. 6)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from seqgen import ops
from seqgen.models.contracts import Canvas, Sizes


class AdditiveCanvas(Canvas):
    """c_t = c_{t-1} + f_w(h_t) (eq. 9)."""

    def forward(self, canvas: Tensor, written: Tensor) -> Tensor:
        """Both [B,Cc,H,W]."""
        return canvas + written


class GatedCanvas(Canvas):
    """c_t = CGRU(c_{t-1} + f_w(h_t)) (eq. 10), the convolutional gated recurrent unit of Kaiser & Sutskever 2015.

    The paper leaves the kernel's size open, here it is 3 x 3; the update gate's bias starts at 2, so that the gradient
    reaches the first of many steps.
    """

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        super().__init__(settings, sizes)
        channels = sizes.canvas_channels
        self.gates = nn.Conv2d(channels, 2 * channels, 3, padding="same")
        self.candidate = nn.Conv2d(channels, channels, 3, padding="same")
        # Gates that hardly look at the canvas at first: with torch's default they feed back on a canvas that
        # writing has made large, and the gradient through T steps explodes.
        with torch.no_grad():
            for conv in (self.gates, self.candidate):
                assert conv.bias is not None
                conv.weight.mul_(0.1)
                conv.bias.zero_()
            self.gates.bias[:channels] = 2.0  # type: ignore[index]

    def forward(self, canvas: Tensor, written: Tensor) -> Tensor:
        """Both [B,Cc,H,W]."""
        return ops.cgru(canvas + written, *self.gates.parameters(), *self.candidate.parameters())
