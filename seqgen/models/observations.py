"""The observation p(x | f_o(c_T)) (eq. 7)."""

from __future__ import annotations

import math
from collections.abc import Callable
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


class AutoregressiveObservation(IdentityObservation):
    """p(x | c) = prod_i p(x_i | x_1 ... x_{i-1}, c): to the canvas's logits every pixel adds for those after it, row by
    row, what it weighs (Gregor et al. 2014).
    """

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        super().__init__(settings, sizes)
        pixels = sizes.height * sizes.width
        self.weights = nn.Parameter(torch.zeros(pixels, pixels))

    def log_likelihood(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Summed over pixels; x in {0,1}."""
        return super().log_likelihood(_given(parameters, x, self.weights), x)

    def mean(self, parameters: Tensor) -> Tensor:
        """No mean, which has no closed form: the probability of every pixel's ink, given the likelier of the two values
        of each before it.
        """
        return self.distribution(parameters).mean

    def beside_error(self, x: Tensor, parameters: Tensor) -> Tensor:
        """x beside x less every pixel's probability given those before it."""
        return super().beside_error(x, _given(parameters, x, self.weights))

    def distribution(self, parameters: Tensor) -> Distribution:
        """Pixels one after the other."""
        return AutoregressiveBernoulli(full_precision(parameters), self.weights)


class AutoregressiveBernoulli(Distribution):
    """Over events [1,H,W]; `logits` [...,1,H,W], `weights` [HW,HW], of which the strictly lower triangle counts."""

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, logits: Tensor, weights: Tensor) -> None:
        self.logits, self.weights = logits, weights
        super().__init__(logits.shape[:-3], logits.shape[-3:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Not the mean: see `AutoregressiveObservation.mean`."""
        return _in_order(self.logits, self.weights, torch.round)[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats, [...]."""
        logits = _given(self.logits, value, self.weights)
        return (value * logits - functional.softplus(logits)).flatten(-3).sum(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Ancestral."""
        logits = self.logits.expand(*sample_shape, *self.logits.shape)
        return _in_order(logits, self.weights, torch.bernoulli)[1]


def _given(logits: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    """The logits of every pixel given those before it."""
    return logits + (x.flatten(-3) @ weights.tril(-1).mT).view(x.shape)


@torch.no_grad()
def _in_order(logits: Tensor, weights: Tensor, choose: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Every pixel's probability given those before it, and their values, which are `choose`n one by one."""
    flat = logits.flatten(-3).clone()
    values = torch.zeros_like(flat)
    for pixel in range(flat.shape[-1]):
        values[..., pixel] = choose(flat[..., pixel].sigmoid())
        flat[..., pixel + 1 :] += values[..., pixel, None] * weights[pixel + 1 :, pixel]
    return flat.sigmoid().view(logits.shape), values.view(logits.shape)


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
