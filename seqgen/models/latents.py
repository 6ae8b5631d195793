"""What z_t is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Distribution, Normal
from torch.nn import functional

from seqgen import ops
from seqgen.models.contracts import Latents, Sizes
from seqgen.ops import full_precision


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

    def prior_noise(self, p: tuple[Tensor, ...], z: Tensor) -> Tensor:
        """(z - mean) / sigma."""
        if not p:
            return z
        mean, log_std = p
        return (z - mean) * (-log_std).exp()

    def kl(self, z: Tensor, q: tuple[Tensor, ...], p: tuple[Tensor, ...]) -> Tensor:
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


class BernoulliLatents(Latents):
    """z in {0,1}^K, 1 where the noise is below its probability: no gradient flows through it.

    q = (logits,); p = () for Bernoulli(1/2), (logits,), or (logits, weights): autoregressive, of which the weights
    [K,K], strictly lower triangular, have entry ij for what z_j adds to the logit of z_i (Gregor et al. 2014). Stacked
    over steps weights are [T,K,K].
    """

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        super().__init__(settings, sizes)
        self.parameters_of_q = self.size = sizes.latents

    def noise(self, steps: int, batch: int, generator: Generator) -> Tensor:
        """Uniform on [0, 1)."""
        return torch.rand(steps, batch, self.size, generator=generator, device=generator.device)

    def draw(self, parameters: Tensor, noise: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """z = 1 where the noise is below sigmoid(logits)."""
        return _ones(parameters, noise), (parameters,)

    def draw_from_prior(self, p: tuple[Tensor, ...], noise: Tensor) -> Tensor:
        """With autoregressive weights one latent after the other."""
        if not p:
            return (noise < 0.5).to(noise.dtype)
        logits, *weights = p
        if not weights:
            return _ones(logits, noise)
        drawn: list[Tensor] = []
        for latent in range(self.size):
            logit = logits[:, latent]
            if drawn:
                logit = logit + torch.stack(drawn, 1) @ weights[0][latent, :latent]
            drawn.append(_ones(logit, noise[:, latent]))
        return torch.stack(drawn, 1)

    def kl(self, z: Tensor, q: tuple[Tensor, ...], p: tuple[Tensor, ...]) -> Tensor:
        """The closed form; with autoregressive weights log q(z) - log p(z)."""
        if len(p) == 2:
            return -self.log_ratio(z, q, p)
        logits = full_precision(q[0])
        entropy = Bernoulli(logits=logits, validate_args=False).entropy()
        return -(entropy + log_probability(logits.sigmoid(), self._given(z, p))).sum(-1)

    def log_ratio(self, z: Tensor, q: tuple[Tensor, ...], p: tuple[Tensor, ...]) -> Tensor:
        """log p(z) - log q(z)."""
        return (log_probability(z, self._given(z, p)) - log_probability(z, q[0])).sum(-1)

    def score(self, z: Tensor, q: tuple[Tensor, ...]) -> Tensor:
        """log q(z)."""
        return log_probability(z, q[0]).sum(-1)

    def distribution(self, parameters: tuple[Tensor, ...]) -> Distribution | None:
        """Bernoulli(sigmoid(logits)); None with autoregressive weights."""
        if len(parameters) == 2:
            return None
        logits = parameters[0] if parameters else torch.zeros(())
        return Bernoulli(logits=logits, validate_args=False)

    def _given(self, z: Tensor, p: tuple[Tensor, ...]) -> Tensor:
        """The logits of p, each latent's given those before it."""
        if not p:
            return torch.zeros_like(z)
        logits, *weights = p
        return logits + z @ weights[0].mT if weights else logits


def _ones(logits: Tensor, noise: Tensor) -> Tensor:
    return (noise < logits.sigmoid()).to(noise.dtype)


def log_probability(z: Tensor, logits: Tensor) -> Tensor:
    """z log p + (1 - z) log (1 - p); z may be a probability, whose cross entropy it then is, negative."""
    logits = full_precision(logits)
    return z * logits - functional.softplus(logits)
