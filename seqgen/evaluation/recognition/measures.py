"""What critics say of samples: how many are recognised, and how much those of one character differ.

Boutin et al. 2022, "Diversity vs. Recognizability: Human-like generalization in one-shot generative models".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from seqgen.core.errors import BadInput, NumericalError
from seqgen.data.batches import generator_at
from seqgen.evaluation.bounds import CHUNK
from seqgen.evaluation.recognition.critics import Critics
from seqgen.evaluation.recognition.networks import encode
from seqgen.models import SequentialModel

WAYS = 20
INK = 0.5  # a pixel of a sample is ink where its probability is above

_CPU = torch.device("cpu")


class Judgement(NamedTuple):
    """Of each of C characters the samples' mean rate of recognition, in [0,1], and their originality: float64 [C]."""

    recognised: Tensor
    originality: Tensor


@torch.no_grad()
def draw_samples(
    model: SequentialModel,
    support: Tensor,
    count: int,
    seed: int,
    temperature: float = 1.0,
    advance: Callable[[int], None] | None = None,
) -> Tensor:
    """`count` samples given each of `support` uint8 [C,H,W] alone: uint8 [C,count,H,W] in {0, 1}.

    A sample is its mean image, ink where above 1/2. `temperature` multiplies the standard normal noise of the prior;
    the noise itself is the same for all. Raises NumericalError if a sample is not finite.
    """
    device = next(model.parameters()).device
    parts = []
    for number, contexts in enumerate(support.repeat_interleave(count, 0).unsqueeze(1).split(CHUNK)):
        noise = model.noise(len(contexts), generator_at(_CPU, seed, "recognised samples", number))
        means = model.sample((temperature * noise).to(device), contexts.to(device).float())
        if not bool(means.isfinite().all()):
            raise NumericalError("a sample of the model is not finite; train again")
        parts.append(means.squeeze(1).gt(INK).to(torch.uint8).cpu())
        if advance:
            advance(len(contexts))
    return torch.cat(parts).unflatten(0, (len(support), count))


def judge(critics: Critics, support: Tensor, drawings: Tensor, ways: int = WAYS) -> Judgement:
    """Ask `critics` about `drawings` uint8 [C,n,H,W], made by whoever was shown `support` uint8 [C,H,W]."""
    rates = recognition_rates(encode(critics.recogniser, support), encode(critics.recogniser, drawings), ways)
    return Judgement(rates.mean(1), originality(encode(critics.embedding, drawings)))


def recognition_rates(support: Tensor, queries: Tensor, ways: int = WAYS) -> Tensor:
    """How often each query is given to its own class in a random `ways`-way 1-shot task: float64 [C,n] in [0,1].

    support: features [C,F], one drawing of each class; queries: [C,n,F]. A query goes to the nearest support by
    Euclidean distance, ties against it. The other classes of a task are random among all; the share of all such tasks
    in which none of them is nearer is hypergeometric and computed in full, so that no task need be drawn.
    """
    classes, others = len(support), ways - 1
    if not 2 <= ways <= classes:
        raise BadInput(f"{ways}-way recognition needs at least {ways} characters, not {classes}")
    distance = torch.cdist(queries.double().flatten(0, 1), support.double()).view(*queries.shape[:2], classes)
    own = torch.arange(classes)
    nearer = (distance <= distance[own, :, own].unsqueeze(2)).sum(2) - 1
    tasks = _log_choose(torch.tensor(classes - 1), others)
    return (_log_choose(classes - 1 - nearer, others) - tasks).exp()


def one_shot_rates(features: Tensor, ways: int = WAYS) -> Tensor:
    """`recognition_rates` of people's drawings, features [C,n,F], each in turn the support: float64 [C,n(n-1)]."""
    drawings = range(features.shape[1])
    rates = [
        recognition_rates(features[:, one], features[:, [other for other in drawings if other != one]], ways)
        for one in drawings
    ]
    return torch.cat(rates, 1)


def originality(features: Tensor) -> Tensor:
    """Boutin et al.'s diversity of the n samples of each class, features [C,n,F], n >= 2: float64 [C].

    The standard deviation (n - 1) of each feature over the samples, averaged over the features. In the embedding,
    whose features have standard deviation 1 over all training drawings, 0 is one drawing again and again, and 1 as
    much as drawings of any characters differ.
    """
    return features.double().std(1, correction=1).mean(1)


def _log_choose(n: Tensor, k: int) -> Tensor:
    """log of n over k, -inf where n < k; float64."""
    enough = n.double().clamp(min=k)
    choices = (
        torch.lgamma(enough + 1) - torch.lgamma(enough - k + 1) - torch.lgamma(torch.tensor(k + 1.0).double())
    )
    return choices.where(n >= k, -torch.inf)
