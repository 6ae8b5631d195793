"""Missing pixels from the observed ones: the Markov chain through q(z | x) and p(x | z), and what it predicts.

The chain is that of Rezende, Mohamed and Wierstra 2014 (appendix F bounds how far it settles from
p(x_missing | x_observed) by how far q is from the posterior: where q is the posterior it is a Gibbs sampler). Its score
is that of a particle filter over the missing pixels (resample and move; Chopin 2002).

`missing` is bool [1,H,W], true where a pixel is missing, and the same for all images; `model.infer` and `model.noise`
are all that is asked of a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Distribution, Independent

from seqgen.core.errors import BadInput, NumericalError
from seqgen.data.batches import generator_at
from seqgen.evaluation.bounds import Advance, HeldOut
from seqgen.models import SequentialModel
from seqgen.models.build import GLOBAL_GENERATOR

_PAIRS = 512  # (image, chain) at once; a constant because the random numbers of an image depend on it


class Link(NamedTuple):
    """One step of the chain: images [B,1,H,W] with the missing pixels drawn anew, and p(x | z) they were drawn from."""

    x: Tensor
    likelihood: Distribution


class Imputed(NamedTuple):
    """Completed images [B,1,H,W]: all states of the chain, the start first; the mean of p(x | z) in its last half."""

    states: list[Tensor]
    mean: Tensor


class Effort(NamedTuple):
    """What a score costs: S chains an image, their steps before the first part and after each other one."""

    chains: int
    steps: int
    parts: int
    moves: int

    def passes(self, images: int) -> int:
        """How often an image passes through the model, at most: `parts` are no more than missing pixels."""
        return images * self.chains * (self.steps + (self.parts - 1) * self.moves)


class Scores(NamedTuple):
    """-log p of the true missing pixels in nats, float64 [N]: of all together, and of each alone, summed."""

    joint: Tensor
    marginals: Tensor


def chain(
    model: SequentialModel, x: Tensor, missing: Tensor, generator: Generator, context: Tensor | None = None
) -> Iterator[Link]:
    """z ~ q(z | x), then x_missing ~ p(x | z), the observed pixels kept; without end, from `x` [B,1,H,W] as filled.

    `generator` is on the CPU. Raises BadInput if pixels are not independent given z.
    """
    while True:
        noise = model.noise(len(x), generator).to(x.device)
        with torch.no_grad():
            likelihood = model.infer(x, context, noise).likelihood
        x = torch.where(
            missing, sample(_independent_pixels(likelihood, x), generator, x.device).to(x.dtype), x
        )
        yield Link(x, likelihood)


def impute(
    model: SequentialModel,
    x: Tensor,
    missing: Tensor,
    steps: int,
    generator: Generator,
    context: Tensor | None = None,
) -> Imputed:
    """Run the chain for `steps` from `x` [B,1,H,W], whose missing pixels are filled with where it starts."""
    states, total = [x], torch.zeros_like(x)
    for number, link in enumerate(islice(chain(model, x, missing, generator, context), steps)):
        states.append(link.x)
        if number >= steps // 2:
            total += link.likelihood.mean
    return Imputed(states, torch.where(missing, total / (steps - steps // 2), x))


def score(
    model: SequentialModel,
    x: Tensor,
    start: Tensor,
    missing: Tensor,
    generator: Generator,
    effort: Effort,
    context: Tensor | None = None,
) -> Scores:
    """How well the chain predicts the true missing pixels of `x` [B,1,H,W]; `start` is x filled where chains begin.

    S chains an image run for `steps`. The missing pixels are cut into parts in reading order, and each part x_j is
    predicted by the mixture of what the chains say of it, then revealed:

        m(x_missing | x_observed) = prod_j (1/S) sum_s p(x_j | z_s)

    After each the chains are resampled by p(x_j | z_s) and go on for `moves` steps with it observed. A prediction
    depends on nothing but what was revealed before it: m is a normalised distribution, as any other predictor's, and
    -log m an honest code length. If q is the posterior and the chains have settled, m is an unbiased estimate of
    p(x_missing | x_observed), so that -log m lies above -log p in the mean (Jensen), the less the more chains. The
    marginals are the mixture at the first part, of each pixel by itself.
    """
    images, chains = len(x), effort.chains
    truth, states = x.repeat(chains, 1, 1, 1), start.repeat(chains, 1, 1, 1)
    given = None if context is None else context.repeat(chains, 1, 1, 1)
    joint = torch.zeros(images, dtype=torch.float64, device=x.device)
    marginals = joint
    for number, part in enumerate(cut(missing, effort.parts)):
        steps = effort.moves if number else effort.steps
        links = chain(model, states, missing, generator, given)
        states, likelihood = next(islice(links, steps - 1, None))
        log_p = pixel_log_prob(likelihood, truth).double().unflatten(0, (chains, images))
        if number == 0:
            marginals = (_log_mean_exp(log_p) * missing).flatten(1).sum(1)
        log_weights = (log_p * part).flatten(2).sum(2)  # [S,B]
        joint = joint + _log_mean_exp(log_weights)
        chosen = _resampled(log_weights, generator)
        states = states.unflatten(0, (chains, images))[chosen, torch.arange(images, device=x.device)]
        states = torch.where(part, x, states).flatten(0, 1)
        missing = missing & ~part
    return Scores(-joint, -marginals)


def scores(
    model: SequentialModel,
    held_out: HeldOut,
    means: Tensor,
    missing: Tensor,
    seed: int,
    effort: Effort,
    advance: Advance | None = None,
) -> Scores:
    """The score of every image, on the CPU; chains start from `means` [1,H,W], what is random from `seed`.

    Raises NumericalError if one is not finite.
    """
    device = next(model.parameters()).device
    missing, means = missing.to(device), means.to(device)
    found = []
    for number, index in enumerate(torch.arange(len(held_out)).split(max(1, _PAIRS // effort.chains))):
        some = held_out.take(index)
        x = some.x.to(device).float()
        context = None if some.context is None else some.context.to(device).float()
        generator = generator_at(torch.device("cpu"), seed, "imputation", number)
        start = torch.where(missing, means, x)
        found.append(score(model, x, start, missing, generator, effort, context))
        if advance:
            advance(effort.passes(len(some)))
    joined = Scores(*(torch.cat(parts).cpu() for parts in zip(*found, strict=True)))
    if not joined.joint.isfinite().all():
        raise NumericalError("the score of a completed image is not finite; train again")
    return joined


def sample(distribution: Distribution, generator: Generator, device: torch.device) -> Tensor:
    """A sample of any of torch's distributions, which take no generator: seeded from `generator`, on the CPU.

    `device` is where the distribution's parameters are.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    with GLOBAL_GENERATOR, torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        return distribution.sample()


def pixel_log_prob(likelihood: Distribution, x: Tensor) -> Tensor:
    """log p of every pixel of `x` [B,1,H,W]. Raises BadInput if pixels are not independent given z."""
    return _independent_pixels(likelihood, x).base_dist.log_prob(x)


def _independent_pixels(likelihood: Distribution, x: Tensor) -> Independent:
    if not isinstance(likelihood, Independent) or likelihood.base_dist.batch_shape[-3:] != x.shape[-3:]:
        raise BadInput(
            f"p(x | z) is a {type(likelihood).__name__}, whose pixels are not independent given z: missing ones cannot "
            "be left out of it; use an observation with independent pixels"
        )
    return likelihood


def cut(missing: Tensor, parts: int) -> list[Tensor]:
    """The missing pixels in at most `parts` masks of like size, in reading order."""
    masks = []
    for some in missing.flatten().nonzero().squeeze(1).tensor_split(parts):
        if len(some):
            mask = torch.zeros_like(missing).flatten()
            mask[some] = True
            masks.append(mask.view_as(missing))
    return masks


def pixel_means(images: Tensor) -> Tensor:
    """The ink of each pixel of binary `images` [N,1,H,W], by Laplace's rule, never 0 or 1: float32 [1,H,W]."""
    return (images.sum(0, dtype=torch.float64) + 1).div(len(images) + 2).float()


def score_of_means(means: Tensor, x: Tensor, missing: Tensor) -> Tensor:
    """-log p of the missing pixels of binary `x` [N,1,H,W], independent with `means` [1,H,W]: nats, float64 [N]."""
    pixels = Bernoulli(means.double()).log_prob(x.double())
    return -(pixels * missing).flatten(1).sum(1)


def _log_mean_exp(values: Tensor) -> Tensor:
    """Over the first dimension."""
    return values.logsumexp(0) - math.log(len(values))


def _resampled(log_weights: Tensor, generator: Generator) -> Tensor:
    """Which chains go on, drawn by `log_weights` [S,B] for each image: int64 [S,B]."""
    weights = log_weights.softmax(0).T.cpu()
    return torch.multinomial(weights, len(log_weights), True, generator=generator).T.to(log_weights.device)
