"""The observation p(x | f_o(c_T)) (eq. 7)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent
from torch.nn import functional

from seqgen.models.contracts import Observation, Sizes
from seqgen.ops import full_precision


class BernoulliObservation(Observation):
    """Binary pixels; the parameters are logits [B,1,H,W]."""

    def log_likelihood(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Summed over pixels; x in [0,1]."""
        logits = full_precision(parameters)
        return (x * logits - functional.softplus(logits)).flatten(1).sum(1)

    def mean(self, parameters: Tensor) -> Tensor:
        """The probability of ink."""
        return parameters.sigmoid()

    def beside_error(self, x: Tensor, parameters: Tensor) -> Tensor:
        """x beside x - sigmoid(logits)."""
        return torch.cat([x, x - parameters.sigmoid()], 1)

    def distribution(self, parameters: Tensor) -> Distribution:
        """Independent Bernoulli pixels."""
        return Independent(Bernoulli(logits=full_precision(parameters), validate_args=False), 3)


class ConvObservation(BernoulliObservation):
    """f_o = a 1 x 1 convolution from the canvas's channels to logits.

    Its bias starts at the mean pixel's logit, its weights large enough that a canvas of order one (the range of
    the CGRU's tanh) reaches confident pixels; torch's default, six times smaller, learns much more slowly.
    """

    initial_canvas = 0.0

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        super().__init__(settings, sizes)
        self.conv = nn.Conv2d(sizes.canvas_channels, 1, 1)
        assert self.conv.bias is not None
        bound = 6 / math.sqrt(sizes.canvas_channels)
        nn.init.uniform_(self.conv.weight, -bound, bound)
        nn.init.constant_(self.conv.bias, logit(sizes.mean))

    def forward(self, canvas: Tensor) -> Tensor:
        """[B,Cc,H,W] -> logits [B,1,H,W]."""
        return self.conv(canvas)


class IdentityObservation(BernoulliObservation):
    """The one-channel canvas is the logits (DRAW); it starts at the mean pixel's logit."""

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        super().__init__(settings, sizes)
        self.initial_canvas = logit(sizes.mean)

    def forward(self, canvas: Tensor) -> Tensor:
        """[B,1,H,W] -> itself."""
        return canvas


class CompositeObservation(BernoulliObservation):
    """Layers on a background: the canvas is an image and the transmittance, through which a learned grey shows.

    The sum, a probability, is mixed with 1/2 to within 1e-4 of 0 and 1: no pixel is impossible, and every gradient
    is finite; a clamp would leave none at all where it holds.
    """

    initial_canvas = 0.0

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        super().__init__(settings, sizes)
        self.background = nn.Parameter(torch.tensor(logit(sizes.mean)))

    def forward(self, canvas: Tensor) -> Tensor:
        """[B,2,H,W] -> logits [B,1,H,W]."""
        image, transmittance = full_precision(canvas).chunk(2, 1)
        probability = image + transmittance * self.background.sigmoid()
        probability = 1e-4 + (1 - 2e-4) * probability
        return probability.log() - (-probability).log1p()


def logit(probability: float) -> float:
    """log p / (1 - p), with p kept away from 0 and 1."""
    p = min(max(probability, 1e-3), 1 - 1e-3)
    return math.log(p / (1 - p))
