"""Diagonal Gaussians: drawing z_t from the posterior, and its KL divergence from the standard normal prior."""

from __future__ import annotations

from torch import Tensor

from seqgen.models import functions, kernels
from seqgen.models.precision import full_precision

# Standard deviations between e^-7 and e^3: beyond, the KL's exponentials leave float32.
_LOG_STD_RANGE = (-7.0, 3.0)


def draw(parameters: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z = mean + sigma `noise` (eq. 12), mean and log sigma, [B,K] each; `parameters` [B,2K] hold the latter two."""
    if kernels.available(parameters, noise) and not noise.requires_grad:
        return functions.draw(parameters, noise, _LOG_STD_RANGE)
    mean, log_std = parameters.chunk(2, 1)
    log_std = log_std.clamp(*_LOG_STD_RANGE)
    return mean + log_std.exp() * noise, mean, log_std


def gaussian_kl(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL[N(mean, sigma) || N(0, I)] = 1/2 sum_k (mean^2 + sigma^2 - 1 - 2 log sigma), over the last axis, nats."""
    mean, log_std = full_precision(mean), full_precision(log_std)
    if kernels.available(mean, log_std):
        return functions.kl(mean, log_std)
    return 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)
