"""The hidden canvas: how what is written joins what is there, c_t = f_c(c_{t-1}, h_t) (eq. 6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqgen.models import functions, kernels


class AdditiveCanvas(nn.Module):
    """c_t = c_{t-1} + f_w(h_t) (eq. 9)."""

    def forward(self, canvas: Tensor, written: Tensor) -> Tensor:
        """Both [B,C,H,W]."""
        return canvas + written


class GatedCanvas(nn.Module):
    """c_t = CGRU(c_{t-1} + f_w(h_t)) (eq. 10), the convolutional gated recurrent unit of Kaiser & Sutskever 2015.

    CGRU(s) = u s + (1 - u) tanh(U * (r s) + B), u = sigmoid(U' * s + B'), r = sigmoid(U'' * s + B''), with * a
    3 x 3 convolution that keeps the size. The paper leaves the kernel's size open; B' starts at `keep` so that the
    gradient reaches the first of many steps.
    """

    def __init__(self, channels: int, kernel: int = 3, keep: float = 2.0) -> None:
        super().__init__()
        self.gates = nn.Conv2d(channels, 2 * channels, kernel, padding="same")
        self.candidate = nn.Conv2d(channels, channels, kernel, padding="same")
        assert self.gates.bias is not None
        assert self.candidate.bias is not None
        nn.init.zeros_(self.gates.bias)
        nn.init.constant_(self.gates.bias[:channels], keep)
        nn.init.zeros_(self.candidate.bias)
        # Gates that hardly look at the canvas at first: with torch's default they feed back on a canvas that
        # writing has made large, and the gradient through T steps explodes.
        with torch.no_grad():
            self.gates.weight.mul_(0.1)
            self.candidate.weight.mul_(0.1)

    def forward(self, canvas: Tensor, written: Tensor) -> Tensor:
        """Both [B,C,H,W]."""
        if self._native(canvas, written):
            return functions.cgru(canvas + written, self.gates, self.candidate)
        # oneDNN's convolutions of few channels are twice as fast channels last; the layout then stays for all steps.
        s = (canvas + written).contiguous(memory_format=torch.channels_last)
        update, reset = self.gates(s).sigmoid().chunk(2, dim=1)
        candidate = functional.tanh(self.candidate(reset * s))
        # Under autocast the convolutions are bfloat16; the canvas itself stays float32 over the steps.
        return torch.lerp(candidate.to(s.dtype), s, update.to(s.dtype))

    def _native(self, canvas: Tensor, written: Tensor) -> bool:
        return self.gates.kernel_size == (3, 3) and kernels.available(canvas, written, self.gates.weight)
