"""The autoregressive posterior q(z_t | z_{<t}, x) from the glimpse and h_{t-1} (eq. 12)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from seqgen.models.contracts import Memory, Posterior, Sizes
from seqgen.models.layers import Linear, LstmCell


class SharedPosterior(Posterior):
    """The paper's: no recurrence of its own; its parameters are an MLP of [r_t ; h_{t-1}]."""

    def __init__(self, settings: Any, sizes: Sizes, glimpse: int, parameters: int) -> None:
        super().__init__(settings, sizes, glimpse, parameters)
        self.inner = Linear(glimpse + sizes.hidden, settings.posterior_hidden)
        self.head = Linear(settings.posterior_hidden, parameters)

    def forward(self, glimpse: Tensor, h: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """See Posterior."""
        return self.head(self.inner(glimpse, h).tanh()), memory


class MeanFieldPosterior(Posterior):
    """q(z_t | x): an MLP of the glimpse alone, which knows no other z (Rezende et al. 2014; diagonal)."""

    def __init__(self, settings: Any, sizes: Sizes, glimpse: int, parameters: int) -> None:
        super().__init__(settings, sizes, glimpse, parameters)
        self.inner = Linear(glimpse, settings.posterior_hidden)
        self.head = Linear(settings.posterior_hidden, parameters)

    def forward(self, glimpse: Tensor, h: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """See Posterior."""
        return self.head(self.inner(glimpse).tanh()), memory


class EncoderPosterior(Posterior):
    """DRAW's: an encoder LSTM reads [r_t ; h_{t-1}]; the parameters are W h^enc_t (DRAW eqs. 5-6)."""

    def __init__(self, settings: Any, sizes: Sizes, glimpse: int, parameters: int) -> None:
        super().__init__(settings, sizes, glimpse, parameters)
        self.cell = LstmCell(glimpse + sizes.hidden, sizes.hidden)
        self.head = Linear(sizes.hidden, parameters)

    def start(self, h: Tensor) -> Memory:
        """Zero: h^enc_0 and its cell."""
        return h.new_zeros(h.shape), h.new_zeros(h.shape)

    def forward(self, glimpse: Tensor, h: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """See Posterior."""
        memory = self.cell((glimpse, h), *memory)
        return self.head(memory[0]), memory
