"""The autoregressive posterior q(z_t | z_{<t}, x): a diagonal Gaussian from the glimpse and h_{t-1} (eq. 12)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqgen.models.slots import Posterior
from seqgen.models.transition import LstmCell

# Standard deviations between e^-7 and e^3: beyond, the KL's exponentials leave float32.
_LOG_STD_RANGE = (-7.0, 3.0)


def _gaussian_head(inputs: int, latents: int) -> nn.Linear:
    """A linear map to mean and log sigma that starts with q near the prior."""
    head = nn.Linear(inputs, 2 * latents)
    with torch.no_grad():
        head.weight.mul_(0.1)
        head.bias.zero_()
    return head


def _split(parameters: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_std = parameters.chunk(2, 1)
    return mean, log_std.clamp(*_LOG_STD_RANGE)


class SharedPosterior(Posterior):
    """The paper's: no recurrence of its own; mu, sigma = MLP([r_t ; h_{t-1}])."""

    state_size = 0

    def __init__(self, glimpse: int, hidden: int, width: int, latents: int) -> None:
        super().__init__()
        self.inner = nn.Linear(glimpse + hidden, width)
        self.head = _gaussian_head(width, latents)

    def forward(
        self, glimpse: Tensor, h: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, tuple]:
        """`glimpse` [B,F], `h` [B,D] -> mean [B,K], log sigma [B,K], `state` untouched."""
        mean, log_std = _split(self.head(self.inner(torch.cat([glimpse, h], 1)).tanh()))
        return mean, log_std, state


class EncoderPosterior(Posterior):
    """DRAW's: an encoder LSTM reads [r_t ; h_{t-1}]; mu, sigma = W h^enc_t (DRAW eqs. 5-6)."""

    def __init__(self, glimpse: int, hidden: int, latents: int) -> None:
        super().__init__()
        self.state_size = hidden
        self.cell = LstmCell(glimpse + hidden, hidden)
        self.head = _gaussian_head(hidden, latents)

    def forward(
        self, glimpse: Tensor, h: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, tuple]:
        """`glimpse` [B,F], `h` [B,D], `state` (h^enc, cell^enc) -> mean [B,K], log sigma [B,K], the next state."""
        state = self.cell(torch.cat([glimpse, h], 1), *state)
        mean, log_std = _split(self.head(state[0]))
        return mean, log_std, state
