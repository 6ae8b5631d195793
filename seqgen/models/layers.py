"""Layers that several slots are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seqgen import ops


class Linear(nn.Linear):
    """y = W [inputs] + b."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """`inputs` [B,I_1], [B,I_2], ... stand side by side -> [B,O]."""
        return ops.linear(inputs, self.weight, self.bias)


class WindowHead(Linear):
    """A linear map from h to the parameters of `windows` windows, each of which starts near `bias` whatever h is.

    Under autocast too it is float32: in bfloat16 a place on the image is known to about a pixel.
    """

    def __init__(self, hidden: int, bias: Sequence[float], windows: int = 1) -> None:
        super().__init__(hidden, windows * len(bias))
        self.windows, self.parameters_of_one = windows, len(bias)
        with torch.no_grad():
            self.weight.mul_(0.1)
            self.bias.copy_(torch.tensor(bias).repeat(windows))

    def forward(self, *inputs: Tensor) -> Tensor:
        """h [B,D] -> [B J, parameters of one window], an image's J windows after one another."""
        with torch.autocast(self.weight.device.type, enabled=False):
            parameters = super().forward(*map(ops.full_precision, inputs))
        return parameters if self.windows == 1 else parameters.view(-1, self.parameters_of_one)


def repeated(image: Tensor, windows: int) -> Tensor:
    """`image` [B,...] for each of its J windows, [B J,...], as WindowHead orders them."""
    return image if windows == 1 else image.repeat_interleave(windows, 0)


def summed(written: Tensor, windows: int) -> Tensor:
    """What was written through J windows, [B J,...], together: [B,...]."""
    return written if windows == 1 else written.unflatten(0, (-1, windows)).sum(1)


class LstmCell(nn.Module):
    """An LSTM's step: all gates from one product W [input ; h] + b."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.linear = Linear(inputs + hidden, 4 * hidden)
        bound = 1 / math.sqrt(hidden)
        nn.init.uniform_(self.linear.weight, -bound, bound)
        nn.init.zeros_(self.linear.bias)
        with torch.no_grad():
            self.linear.bias[hidden : 2 * hidden] = 1.0  # remember at first

    def forward(self, inputs: Sequence[Tensor], h: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """`inputs` [B,I] in parts, `h` and `cell` [B,D] -> the next h and cell."""
        return ops.lstm((*inputs, h), cell, self.linear.weight, self.linear.bias)
