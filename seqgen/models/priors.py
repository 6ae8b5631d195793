"""The prior p(z_t | .)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqgen.models.contracts import Prior, Sizes
from seqgen.models.layers import Linear


class StandardNormal(Prior):
    """z_t ~ N(0, I), independent over t (eq. 3): there is nothing to say of it."""

    def forward(self, h: Tensor, v: Tensor | None) -> tuple[Tensor, ...]:
        """Empty."""
        return ()


class LearnedPrior(Prior):
    """z_t ~ N(mean, sigma), both linear in [h_{t-1} ; v_t] (as Mansimov et al. 2016 in h alone); N(0, I) at first."""

    def __init__(self, settings: Any, sizes: Sizes, context: int, parameters: int) -> None:
        super().__init__(settings, sizes, context, parameters)
        self.head = Linear(sizes.hidden + context, parameters)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.zero_()

    def forward(self, h: Tensor, v: Tensor | None) -> tuple[Tensor, ...]:
        """mean and log sigma, [B,K] each."""
        mean, log_std = self.head(*((h,) if v is None else (h, v))).chunk(2, 1)
        return mean, log_std.clamp(-3.0, 3.0)
