"""The prior p(z_t | .)."""

from __future__ import annotations

from torch import Tensor

from seqgen.models.contracts import Prior


class StandardNormal(Prior):
    """z_t ~ N(0, I), independent over t (eq. 3): there is nothing to say of it."""

    def forward(self, h: Tensor) -> tuple[Tensor, ...]:
        """Empty."""
        return ()
