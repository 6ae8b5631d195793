"""How several contexts become one: v_t from the glimpses of x'_1 ... x'_N (eq. 4; task 3 has 1 to 10)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqgen.models.contracts import Context, Sizes
from seqgen.models.layers import Linear


class MeanContext(Context):
    """The mean of the glimpses: their order says nothing.

    Reading is linear in the image, and all contexts are read through one window: the mean of the glimpses is the
    glimpse of the mean image, and costs as much as that of one.
    """

    def gather(self, contexts: Tensor) -> Tensor:
        """Their mean, [B,1,H,W]."""
        return contexts if contexts.shape[1] == 1 else contexts.mean(1, keepdim=True)

    def forward(self, glimpses: Tensor, h: Tensor) -> Tensor:
        """See Context."""
        return glimpses[:, 0]


class AttentiveContext(Context):
    """The glimpses weighted by a softmax over contexts of their product with a query, W h_{t-1}; the mean at first."""

    def __init__(self, settings: Any, sizes: Sizes, features: int) -> None:
        super().__init__(settings, sizes, features)
        self.query = Linear(sizes.hidden, features)
        with torch.no_grad():
            self.query.weight.zero_()
            self.query.bias.zero_()

    def forward(self, glimpses: Tensor, h: Tensor) -> Tensor:
        """See Context."""
        scores = (glimpses * self.query(h).unsqueeze(1)).sum(2)
        return (scores.softmax(1).unsqueeze(2) * glimpses).sum(1)
