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

    `x` and `context` are [B,1,H,W]. At most `chunk` (image, sample) pairs are in memory at once; the sum runs in
    the log domain, so neither k nor T can overflow it. `generator` is a CPU generator. Raises ValueError if not
    even one sample of every image fits a chunk.
    """
    if len(x) > chunk:
        raise ValueError(f"{len(x)} images exceed the chunk of {chunk} pairs: give fewer at a time")
    each = chunk // len(x)
    total = torch.full((len(x),), -math.inf, device=x.device)
    for start in range(0, samples, each):
        k = min(each, samples - start)
        noise = torch.randn(model.noise_shape(k * len(x)), generator=generator).to(x.device)
        log_weights = _log_weights(
            model, _repeat(x, k), None if context is None else _repeat(context, k), noise
        )
        total = torch.logaddexp(total, log_weights.view(k, len(x)).logsumexp(0))
    return total - math.log(samples)


def _repeat(images: Tensor, k: int) -> Tensor:
    return images.expand(k, *images.shape).flatten(0, 1)


def _log_weights(model: SequentialGenerator, x: Tensor, context: Tensor | None, noise: Tensor) -> Tensor:
    """log p(x | z) + log p(z) - log q(z | x) at one posterior sample, [B]."""
    posterior, z, likelihood = model.infer(x, context, noise)
    log_prior = -0.5 * (z.square() + math.log(2 * math.pi))
    return likelihood.log_prob(x) + (log_prior - posterior.log_prob(z)).sum((0, 2))
