"""Diagonal Gaussians: drawing z_t, and their KL divergence. Plain torch: kernels of our own were no faster."""

from __future__ import annotations

from torch import Tensor

from seqgen.ops.precision import full_precision

# Standard deviations between e^-7 and e^3: beyond, the KL's exponentials leave float32.
LOG_STD_RANGE = (-7.0, 3.0)


def draw(parameters: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z = mean + sigma `noise` (eq. 12), mean and log sigma, [B,K] each; `parameters` [B,2K] hold the latter two.

    log sigma is kept within LOG_STD_RANGE.
    """
    mean, log_std = parameters.chunk(2, 1)
    log_std = log_std.clamp(*LOG_STD_RANGE)
    return mean + log_std.exp() * noise, mean, log_std


def standard_normal_kl(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL[N(mean, sigma) || N(0, I)] = 1/2 sum_k (mean^2 + sigma^2 - 1 - 2 log sigma), nats: [...,K] -> [...]."""
    mean, log_std = full_precision(mean), full_precision(log_std)
    return 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)


def gaussian_kl(mean: Tensor, log_std: Tensor, prior_mean: Tensor, prior_log_std: Tensor) -> Tensor:
    """KL[N(mean, sigma) || N(prior_mean, prior_sigma)] over the last axis, nats: [...,K] each -> [...]."""
    mean, log_std, prior_mean, prior_log_std = map(full_precision, (mean, log_std, prior_mean, prior_log_std))
    apart = (mean - prior_mean) * (-prior_log_std).exp()
    return standard_normal_kl(apart, log_std - prior_log_std)
