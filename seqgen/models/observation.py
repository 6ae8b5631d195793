"""The observation p(x | f_o(c_T)): Bernoulli logits from the canvas (eq. 7)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from seqgen.models.precision import full_precision
from seqgen.models.slots import Observation


def logit(probability: float) -> float:
    """log p / (1 - p), with p kept away from 0 and 1."""
    p = min(max(probability, 1e-3), 1 - 1e-3)
    return math.log(p / (1 - p))


class ConvObservation(Observation):
    """f_o = a 1 x 1 convolution from the canvas's channels to logits.

    Its bias starts at the mean pixel's logit, its weights large enough that a canvas of order one (the range of
    the CGRU's tanh) reaches confident pixels; torch's default, six times smaller, learns much more slowly.
    """

    def __init__(self, channels: int, mean: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1)
        assert self.conv.bias is not None
        nn.init.uniform_(self.conv.weight, -6 / math.sqrt(channels), 6 / math.sqrt(channels))
        nn.init.constant_(self.conv.bias, logit(mean))
        self.initial_canvas = 0.0

    def forward(self, canvas: Tensor) -> Tensor:
        """[B,C,H,W] -> logits [B,1,H,W]."""
        return self.conv(canvas)


class IdentityObservation(Observation):
    """The one-channel canvas is the logits (DRAW); it starts at the mean pixel's logit."""

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.initial_canvas = logit(mean)

    def forward(self, canvas: Tensor) -> Tensor:
        """[B,1,H,W] -> itself."""
        return canvas


def bernoulli_log_prob(logits: Tensor, x: Tensor) -> Tensor:
    """log p(x) summed over pixels, in nats: logits [B,1,H,W] and x in [0,1] -> [B]."""
    logits = full_precision(logits)
    return (x * logits - torch.nn.functional.softplus(logits)).flatten(1).sum(1)
