"""What z_t is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution, Normal

from seqgen import ops
from seqgen.models.contracts import Latents, Sizes


class GaussianLatents(Latents):
    """Diagonal Gaussians: q = (mean, log sigma); p = () for N(0, I), else (mean, log sigma) too (eqs. 3, 12)."""

    normal_noise = True

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        super().__init__(settings, sizes)
        self.size = sizes.latents
        self.parameters_of_q = 2 * sizes.latents

    def noise(self, steps: int, batch: int, generator: Generator) -> Tensor:
        """Standard normal."""
        return torch.randn(steps, batch, self.size, generator=generator, device=generator.device)

    def draw(self, parameters: Tensor, noise: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """z = mean + sigma noise."""
        z, *q = ops.draw(parameters, noise)
        return z, tuple(q)

    def draw_from_prior(self, p: tuple[Tensor, ...], noise: Tensor) -> Tensor:
        """Under N(0, I) the noise itself."""
        if not p:
            return noise
        mean, log_std = p
        return mean + log_std.exp() * noise

    def kl(self, q: tuple[Tensor, ...], p: tuple[Tensor, ...]) -> Tensor:
        """The closed form (eq. 8)."""
        return ops.gaussian_kl(*q, *p) if p else ops.standard_normal_kl(*q)

    def log_ratio(self, z: Tensor, q: tuple[Tensor, ...], p: tuple[Tensor, ...]) -> Tensor:
        """The normalising constants of q and p cancel."""
        mean, log_std = q
        prior_mean, prior_log_std = p or (torch.zeros(()), torch.zeros(()))
        under_q = ((z - mean) * (-log_std).exp()).square()
        under_p = ((z - prior_mean) * (-prior_log_std).exp()).square()
        return (0.5 * (under_q - under_p) + log_std - prior_log_std).sum(-1)

    def distribution(self, parameters: tuple[Tensor, ...]) -> Distribution:
        """Normal(mean, sigma)."""
        mean, log_std = parameters or (torch.zeros(()), torch.zeros(()))
        return Normal(mean, log_std.exp(), validate_args=False)
