"""The autoregressive posterior q(z_t | z_{<t}, x): a diagonal Gaussian from the glimpse and h_{t-1} (eq. 12)."""

from __future__ import annotations

from torch import Tensor

from seqgen.models.linear import StepLinear
from seqgen.models.slots import Posterior
from seqgen.models.transition import LstmCell


class SharedPosterior(Posterior):
    """The paper's: no recurrence of its own; mu, sigma = MLP([r_t ; h_{t-1}]).

    A fixed glimpse enters once, as its share of the first product.
    """

    state_size = 0

    def __init__(self, glimpse: int, hidden: int, width: int, latents: int, fixed: bool = False) -> None:
        super().__init__()
        self.inner = StepLinear(glimpse + hidden, width, glimpse if fixed else 0)
        self.head = StepLinear(width, 2 * latents)

    def share(self, glimpse: Tensor) -> Tensor | None:
        """What a fixed glimpse [B,F] gives at every step; None if it is not fixed."""
        return self.inner.share(glimpse) if self.inner.fixed else None

    def forward(
        self, glimpse: Tensor | None, h: Tensor, state: tuple[Tensor, Tensor], share: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """`glimpse` [B,F], `h` [B,D] -> mean and log sigma [B,2K], `state` untouched."""
        return self.head(self.inner(*_present(glimpse), h, share=share).tanh()), state


class EncoderPosterior(Posterior):
    """DRAW's: an encoder LSTM reads [r_t ; h_{t-1}]; mu, sigma = W h^enc_t (DRAW eqs. 5-6)."""

    def __init__(self, glimpse: int, hidden: int, latents: int, fixed: bool = False) -> None:
        super().__init__()
        self.state_size = hidden
        self.cell = LstmCell(glimpse + hidden, hidden, glimpse if fixed else 0)
        self.head = StepLinear(hidden, 2 * latents)

    def share(self, glimpse: Tensor) -> Tensor | None:
        """What a fixed glimpse [B,F] gives at every step; None if it is not fixed."""
        return self.cell.linear.share(glimpse) if self.cell.linear.fixed else None

    def forward(
        self, glimpse: Tensor | None, h: Tensor, state: tuple[Tensor, Tensor], share: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """`glimpse` [B,F], `h` [B,D], `state` (h^enc, cell^enc) -> mean and log sigma [B,2K], the next state."""
        state = self.cell((*_present(glimpse), h), *state, share=share)
        return self.head(state[0]), state


def _present(glimpse: Tensor | None) -> tuple[Tensor, ...]:
    return () if glimpse is None else (glimpse,)
