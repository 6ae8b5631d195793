"""Observations of grey pixels: densities of x in [0,1] in the place of eq. 7's Bernoulli.

F is in nats of the density at dequantised pixels, x = (v + u) / 256, and may be negative. By Jensen's inequality over u
(Theis et al. 2016, eq. 4) F / (H W log 2) + 8 bounds the bits a dimension of the levels v from above.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    Distribution,
    Independent,
    Normal,
    SigmoidTransform,
    TransformedDistribution,
)

from seqgen.models.contracts import Observation, Sizes
from seqgen.ops import full_precision
from seqgen.ops.gaussian import LOG_STD_RANGE

# Gauss-Hermite nodes and weights of N(0, 1): 20 give E[sigmoid(y)] within 2e-4 for sigma up to 3.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(20)
_QUADRATURE = list(zip(_NODES.tolist(), (_WEIGHTS / math.sqrt(2 * math.pi)).tolist(), strict=True))


class MeanAndSigma(Observation):
    """f_o = a 1 x 1 convolution to the mean and log sigma of a Gaussian at each pixel, the parameters [B,2,H,W].

    log sigma is kept within the range of the latents', whose lower end is just below that of the noise of one level's
    bin, 1 / (256 sqrt 12). Under autocast too the convolution is float32: bfloat16's means are coarser than that.
    """

    initial_canvas = 0.0

    def __init__(self, settings: Any, sizes: Sizes, mean: float, log_std: float, reach: float) -> None:
        """`mean` and `log_std` are where it starts; `reach` is how far a canvas of order one takes them from there."""
        super().__init__(settings, sizes)
        self.conv = nn.Conv2d(sizes.canvas_channels, 2, 1)
        assert self.conv.bias is not None
        bound = reach / math.sqrt(sizes.canvas_channels)
        nn.init.uniform_(self.conv.weight, -bound, bound)
        with torch.no_grad():
            self.conv.bias.copy_(torch.tensor([mean, log_std]))

    def forward(self, canvas: Tensor) -> Tensor:
        """[B,Cc,H,W] -> mean and log sigma, [B,2,H,W]."""
        with torch.autocast(canvas.device.type, enabled=False):
            return self.conv(full_precision(canvas))

    def beside_error(self, x: Tensor, parameters: Tensor) -> Tensor:
        """x beside x - its mean."""
        return torch.cat([x, x - self.mean(parameters)], 1)


class GaussianObservation(MeanAndSigma):
    """x ~ N(mean, sigma^2) at each pixel: a density on all of R, of which [0,1] has less than one.

    It starts at the mean pixel, with the largest sigma that pixels in [0,1] with that mean can have.
    """

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        pixel = min(max(sizes.mean, 1e-3), 1 - 1e-3)
        super().__init__(settings, sizes, pixel, 0.5 * math.log(pixel * (1 - pixel)), reach=1.0)

    def log_likelihood(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log N(x; mean, sigma^2), summed over pixels."""
        return _log_normal(x, parameters).flatten(1).sum(1)

    def mean(self, parameters: Tensor) -> Tensor:
        """The Gaussian's; it may leave [0,1]."""
        return _mean_and_log_std(parameters)[0]

    def distribution(self, parameters: Tensor) -> Distribution:
        """Independent Gaussian pixels."""
        mean, log_std = _mean_and_log_std(parameters)
        return Independent(Normal(mean, log_std.exp(), validate_args=False), 3)


class LogitNormalObservation(MeanAndSigma):
    """y = logit(alpha + (1 - 2 alpha) x) ~ N(mean, sigma^2) at each pixel (Rezende & Mohamed 2015).

    alpha keeps the y of [0,1] finite. Any y has its x, between -alpha and 1 - alpha over 1 - 2 alpha: of the density
    [0,1] has less than one. It starts at the y of the mean pixel, with sigma 1; a canvas of order one reaches the y of
    all of [0,1].
    """

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        alpha = settings.logit_alpha
        super().__init__(settings, sizes, _logit(_squeezed(sizes.mean, alpha)), 0.0, reach=_logit(1 - alpha))
        self.alpha = alpha

    def log_likelihood(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log N(y; mean, sigma^2) + log dy/dx, summed over pixels: dy/dx = (1 - 2 alpha) / (s (1 - s)), y = logit s."""
        finite = torch.finfo(x.dtype)  # a sample may be as far out as floats go, as torch's sigmoid has it
        s = _squeezed(x, self.alpha).clamp(finite.tiny, 1 - finite.eps)
        log_slope = math.log(1 - 2 * self.alpha) - s.log() - (-s).log1p()
        return (_log_normal(s.logit(), parameters) + log_slope).flatten(1).sum(1)

    def mean(self, parameters: Tensor) -> Tensor:
        """E[x], which has no closed form: by quadrature; it may leave [0,1] as x may."""
        mean, log_std = _mean_and_log_std(parameters)
        return _logit_normal_mean(mean, log_std.exp(), self.alpha)

    def distribution(self, parameters: Tensor) -> Distribution:
        """Independent logit-normal pixels."""
        mean, log_std = _mean_and_log_std(parameters)
        return Independent(LogitNormal(mean, log_std.exp(), self.alpha), 3)


class LogitNormal(TransformedDistribution):
    """x = (sigmoid(y) - alpha) / (1 - 2 alpha), y ~ N(loc, scale^2)."""

    def __init__(self, loc: Tensor, scale: Tensor, alpha: float) -> None:
        spread = 1 / (1 - 2 * alpha)
        transforms = [SigmoidTransform(), AffineTransform(-alpha * spread, spread)]
        super().__init__(Normal(loc, scale, validate_args=False), transforms, validate_args=False)
        self.loc, self.scale, self.alpha = loc, scale, alpha

    @property
    def mean(self) -> Tensor:
        """By Gauss-Hermite quadrature."""
        return _logit_normal_mean(self.loc, self.scale, self.alpha)


_Number = TypeVar("_Number", float, Tensor)


def _squeezed(x: _Number, alpha: float) -> _Number:
    return alpha + (1 - 2 * alpha) * x


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _logit_normal_mean(loc: Tensor, scale: Tensor, alpha: float) -> Tensor:
    expected = torch.zeros_like(loc)
    for node, weight in _QUADRATURE:
        expected = expected + weight * (loc + node * scale).sigmoid()
    return (expected - alpha) / (1 - 2 * alpha)


def _log_normal(values: Tensor, parameters: Tensor) -> Tensor:
    """log N(values; mean, sigma^2), [B,1,H,W]."""
    mean, log_std = _mean_and_log_std(parameters)
    return -0.5 * ((values - mean) * (-log_std).exp()).square() - log_std - 0.5 * math.log(2 * math.pi)


def _mean_and_log_std(parameters: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_std = full_precision(parameters).chunk(2, 1)
    return mean, log_std.clamp(*LOG_STD_RANGE)
