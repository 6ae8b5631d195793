"""The transition h_t = f_h(h_{t-1}, z_t, v_t), an LSTM (eq. 5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from seqgen.models import functions, kernels
from seqgen.models.linear import StepLinear


class LstmCell(nn.Module):
    """i, f, o = sigmoid(.), g = tanh(.) of one product W [input ; h] + b; cell' = f cell + i g; h' = o tanh(cell')."""

    def __init__(self, inputs: int, hidden: int, fixed: int = 0) -> None:
        super().__init__()
        self.linear = StepLinear(inputs + hidden, 4 * hidden, fixed)
        bound = 1 / math.sqrt(hidden)
        nn.init.uniform_(self.linear.weight, -bound, bound)
        nn.init.zeros_(self.linear.bias)
        with torch.no_grad():
            self.linear.bias[hidden : 2 * hidden] = 1.0  # remember at first

    def forward(
        self, inputs: tuple[Tensor, ...], h: Tensor, cell: Tensor, share: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`inputs` [B,I] in parts, `h` and `cell` [B,D] -> the next h and cell; `share` as in StepLinear."""
        if kernels.available(h, cell, self.linear.weight):
            return functions.lstm(self.linear, (*inputs, h), cell, share)
        gates = self.linear(*inputs, h, share=share)
        i, f, g, o = gates.chunk(4, 1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell
