"""How several contexts become one: the image that v_t is read of, from x'_1 ... x'_N (eq. 4; task 3 has 1 to 10).

Reading is linear in the image, and all contexts are read through one window: a weighted mean of glimpses is the glimpse
of the weighted mean image, and costs as much as that of one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from seqgen.models.contracts import Context, Sizes
from seqgen.models.layers import Linear


class MeanContext(Context):
    """The mean of the contexts, the same at every step: their order says nothing."""

    fixed = True

    def gather(self, contexts: Tensor) -> tuple[Tensor]:
        """Their mean."""
        return (contexts if contexts.shape[1] == 1 else contexts.mean(1, keepdim=True),)

    def forward(self, gathered: tuple[Tensor, ...], h: Tensor) -> Tensor:
        """See Context."""
        return gathered[0]


class AttentiveContext(Context):
    """The contexts weighted anew at every step by a softmax of key(x'_i) . query(h_{t-1}) / sqrt(64).

    h_{t-1} knows z_1 ... z_{t-1}: the latents choose which drawing is looked at, as in Bornschein et al. 2017 a
    discrete one does.
    """

    _KEY = 64

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        super().__init__(settings, sizes)
        self.height, self.width = sizes.height, sizes.width
        self.key = Linear(sizes.height * sizes.width, self._KEY)
        self.query = Linear(sizes.hidden, self._KEY)

    def gather(self, contexts: Tensor) -> tuple[Tensor, Tensor]:
        """All of them, flat, [B,N,H*W], and their keys, [B,N,64]."""
        flat = contexts.flatten(2)
        return flat, self.key(flat.flatten(0, 1)).unflatten(0, flat.shape[:2])

    def forward(self, gathered: tuple[Tensor, ...], h: Tensor) -> Tensor:
        """See Context."""
        images, keys = gathered
        scores = (keys * self.query(h).unsqueeze(1)).sum(2) / math.sqrt(self._KEY)
        weighted = torch.bmm(scores.softmax(1).unsqueeze(1).to(images.dtype), images)
        return weighted.view(-1, 1, self.height, self.width)
