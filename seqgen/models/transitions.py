"""The transition h_t = f_h(h_{t-1}, z_t, v_t) (eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seqgen.models.contracts import Memory, Sizes, Transition
from seqgen.models.layers import Linear, LstmCell


class Lstm(Transition):
    """An LSTM. The paper leaves its start open; here h_0 and cell_0 are learned."""

    def __init__(self, settings: Any, sizes: Sizes, inputs: int) -> None:
        super().__init__(settings, sizes, inputs)
        self.cell = LstmCell(inputs, sizes.hidden)
        self.h0 = nn.Parameter(torch.zeros(sizes.hidden))
        self.cell0 = nn.Parameter(torch.zeros(sizes.hidden))

    def start(self, batch: int) -> tuple[Tensor, Memory]:
        """h_0 [B,D] and (cell_0 [B,D],)."""
        return self.h0.expand(batch, -1), (self.cell0.expand(batch, -1),)

    def forward(self, inputs: Sequence[Tensor], h: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """See Transition."""
        h, cell = self.cell(inputs, h, *memory)
        return h, (cell,)


class Residual(Transition):
    """h_t = T(h_{t-1}) + G z_t, T an MLP of one tanh layer (Rezende et al. 2014, eq. 3); h_0 = 0."""

    def __init__(self, settings: Any, sizes: Sizes, inputs: int) -> None:
        super().__init__(settings, sizes, inputs)
        self.hidden = sizes.hidden
        self.inner, self.outer = Linear(sizes.hidden, sizes.hidden), Linear(sizes.hidden, sizes.hidden)
        self.noise = nn.Linear(inputs, sizes.hidden, bias=False)

    def start(self, batch: int) -> tuple[Tensor, Memory]:
        """h_0 = 0, no memory."""
        return self.noise.weight.new_zeros(batch, self.hidden), ()

    def forward(self, inputs: Sequence[Tensor], h: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """See Transition."""
        return self.outer(self.inner(h).tanh()) + self.noise(torch.cat(tuple(inputs), 1)), memory


class Latent(Transition):
    """h_t = z_t: a layer is told of the one above it and of no other. h_0 = 0."""

    h0: Tensor

    def __init__(self, settings: Any, sizes: Sizes, inputs: int) -> None:
        super().__init__(settings, sizes, inputs)
        self.register_buffer("h0", torch.zeros(sizes.hidden), persistent=False)

    def start(self, batch: int) -> tuple[Tensor, Memory]:
        """h_0 = 0, no memory."""
        return self.h0.expand(batch, -1), ()

    def forward(self, inputs: Sequence[Tensor], h: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """See Transition."""
        (z,) = inputs
        return z, memory
