"""The prior p(z_t | .)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from seqgen.models.contracts import Prior, Sizes
from seqgen.models.layers import Linear


class StandardNormal(Prior):
    """z_t ~ N(0, I), independent over t (eq. 3): there is nothing to say of it."""

    def forward(self, h: Tensor, v: Tensor | None) -> tuple[Tensor, ...]:
        """Empty."""
        return ()


class LearnedPrior(Prior):
    """p(z_t | h_{t-1}, v_t), its parameters linear in [h_{t-1} ; v_t] (Mansimov et al. 2016 have h alone).

    mean and log sigma of Gaussian latents, the logits of Bernoulli ones; all 0 at first: N(0, I), Bernoulli(1/2).
    """

    def __init__(self, settings: Any, sizes: Sizes, context: int, parameters: int) -> None:
        super().__init__(settings, sizes, context, parameters)
        self.parts = parameters // sizes.latents
        self.head = Linear(sizes.hidden + context, parameters)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.zero_()

    def forward(self, h: Tensor, v: Tensor | None) -> tuple[Tensor, ...]:
        """(mean, log sigma) or (logits,), [B,K] each."""
        return prior_parameters(self.head(*((h,) if v is None else (h, v))), self.parts)


class AutoregressivePrior(LearnedPrior):
    """p(z_t | h_{t-1}), Bernoulli, every logit linear in h_{t-1} and the latents before it (Gregor et al. 2014)."""

    def __init__(self, settings: Any, sizes: Sizes, context: int, parameters: int) -> None:
        super().__init__(settings, sizes, context, parameters)
        self.weights = nn.Parameter(torch.zeros(sizes.latents, sizes.latents))

    def forward(self, h: Tensor, v: Tensor | None) -> tuple[Tensor, ...]:
        """(logits [B,K], weights [K,K], strictly lower triangular)."""
        return *super().forward(h, v), self.weights.tril(-1)


def prior_parameters(numbers: Tensor, parts: int) -> tuple[Tensor, ...]:
    """A network's `numbers` [B, parts K] as p: (mean, log sigma) or (logits,); log sigma is kept within [-3, 3]."""
    place, *log_std = numbers.chunk(parts, 1)
    return place, *(scale.clamp(-3.0, 3.0) for scale in log_std)
