"""The importance-weighted bound L_k of Burda et al. 2015."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import NamedTuple

import torch
from torch import Tensor

from seqgen.models import SequentialModel


class Importance(NamedTuple):
    """What k weighted posterior samples w_i of an image say, [B] each.

    `bound` is L_k in nats; `effective` Kong's effective sample size (sum w)^2 / sum w^2, from 1 to k; `largest` the
    share of the largest weight, from 1/k to 1. Where one sample has most of the weight L_k is far from log p(x).
    """

    bound: Tensor
    effective: Tensor
    largest: Tensor


def importance_weighted(
    model: SequentialModel,
    x: Tensor,
    context: Tensor | None,
    samples: int,
    generator: torch.Generator,
    chunk: int = 1000,
) -> Tensor:
    """L_k = log (1/k) sum_i p(x, z_i) / q(z_i | x), [B] in nats: a lower bound of log p(x), tighter as k grows."""
    return importance_estimate(model, x, context, samples, generator, chunk).bound


def importance_estimate(
    model: SequentialModel,
    x: Tensor,
    context: Tensor | None,
    samples: int,
    generator: torch.Generator,
    chunk: int = 1000,
) -> Importance:
    """L_k of k = `samples`, and how far the weights of the samples are from equal.

    `x` is [B,1,H,W], `context` [B,N,H,W]. At most `chunk` (image, sample) pairs are computed at once, over which what
    depends on x alone is shared by an image's samples; the sum runs in the log domain, so neither k nor T can
    overflow it. An image's noise is drawn for all its k samples from `generator`, a CPU generator: the same whatever
    the chunk and the device. Raises ValueError if not even one sample of every image fits a chunk.
    """
    work = importance_work(model, x, context, samples, generator, chunk)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def importance_work(
    model: SequentialModel,
    x: Tensor,
    context: Tensor | None,
    samples: int,
    generator: torch.Generator,
    chunk: int = 1000,
) -> Generator[None, None, Importance]:
    """`importance_estimate` for who has other things to do between two chunks: it yields after each."""
    if len(x) > chunk:
        raise ValueError(f"{len(x)} images exceed the chunk of {chunk} pairs: give fewer at a time")
    noise = torch.stack([model.noise(samples, generator) for _ in x], 2)  # [T,k,B,K]
    total = squares = largest = torch.full((len(x),), -math.inf, device=x.device)
    for part in noise.split(chunk // len(x), dim=1):
        log_weights = log_importance_weights(model, x, context, part.flatten(1, 2).to(x.device))
        log_weights = log_weights.view(part.shape[1], len(x))
        total = torch.logaddexp(total, log_weights.logsumexp(0))
        squares = torch.logaddexp(squares, (2 * log_weights).logsumexp(0))
        largest = torch.maximum(largest, log_weights.amax(0))
        yield
    return Importance(total - math.log(samples), (2 * total - squares).exp(), (largest - total).exp())


def log_importance_weights(
    model: SequentialModel, x: Tensor, context: Tensor | None, noise: Tensor
) -> Tensor:
    """log p(x | z) + log p(z) - log q(z | x) at k posterior samples an image, [kB], sample by sample, in nats.

    `noise` is [T,kB,N].
    """
    return log_importance_weights_and_score(model, x, context, noise)[0]


def log_importance_weights_and_score(
    model: SequentialModel, x: Tensor, context: Tensor | None, noise: Tensor
) -> tuple[Tensor, Tensor | None]:
    """`log_importance_weights`, and of the same samples `Inference.score`, [T,kB] or None."""
    inference = model.infer(x, context, noise)
    images = x.expand(noise.shape[1] // len(x), *x.shape).flatten(0, 1)
    return inference.likelihood.log_prob(images) + inference.log_ratio.sum(0), inference.score
