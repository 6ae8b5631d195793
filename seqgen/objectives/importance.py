"""The importance-weighted bound L_k of Burda et al. 2015."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from seqgen.models.generator import SequentialGenerator


def importance_weighted(
    model: SequentialGenerator,
    x: Tensor,
    context: Tensor | None,
    samples: int,
    generator: torch.Generator,
    chunk: int = 1000,
) -> Tensor:
    """L_k = log (1/k) sum_i p(x, z_i) / q(z_i | x), [B] in nats: a lower bound of log p(x), tighter as k grows.

    `x` and `context` are [B,1,H,W]. At most `chunk` (image, sample) pairs are computed at once, over which what
    depends on x alone is shared by an image's samples; the sum runs in the log domain, so neither k nor T can
    overflow it. An image's noise is drawn as one [k,T,K] from `generator`, a CPU generator: the same whatever the
    chunk and the device. Raises ValueError if not even one sample of every image fits a chunk.
    """
    if len(x) > chunk:
        raise ValueError(f"{len(x)} images exceed the chunk of {chunk} pairs: give fewer at a time")
    steps, _, latents = model.noise_shape(1)
    noise = torch.stack([torch.randn(samples, steps, latents, generator=generator) for _ in x], 1)
    total = torch.full((len(x),), -math.inf, device=x.device)
    for part in noise.split(chunk // len(x)):
        log_weights = _log_weights(model, x, context, part.flatten(0, 1).transpose(0, 1).to(x.device))
        total = torch.logaddexp(total, log_weights.view(len(part), len(x)).logsumexp(0))
    return total - math.log(samples)


def _log_weights(model: SequentialGenerator, x: Tensor, context: Tensor | None, noise: Tensor) -> Tensor:
    """log p(x | z) + log p(z) - log q(z | x) at k posterior samples an image, [kB], sample by sample."""
    posterior, z, likelihood = model.infer(x, context, noise)
    repeats = noise.shape[1] // len(x)
    images = x.expand(repeats, *x.shape).flatten(0, 1)
    # log N(z; 0, 1) - log N(z; mu, sigma), where (z - mu) / sigma is the noise.
    log_ratio = 0.5 * (noise.square() - z.square()) + posterior.stddev.log()
    return likelihood.log_prob(images) + log_ratio.sum((0, 2))
